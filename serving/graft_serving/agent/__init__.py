"""Looks after one vLLM: fetches, verifies, loads and probes adapters, and answers for its pod."""
