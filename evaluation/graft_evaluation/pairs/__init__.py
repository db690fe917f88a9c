"""Pair lines: what a collector writes, and what it, an offline command and the report read from them with the same code."""
