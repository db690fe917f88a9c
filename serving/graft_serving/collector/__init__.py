"""Beside the gateways: scores production's answers, and holds a candidate's against them."""
