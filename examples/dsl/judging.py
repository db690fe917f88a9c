"""What an answer of the demo is worth, and the tickets that were answered wrongly."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from world.judge import Judge

HERE = Path(__file__).parent
MARK = "URGENT: "
"""Before each question of a ticket."""
WRONG = "no && rule"
"""Compiles not."""
TICKETS = 64


def judge_of_the_policy() -> Judge:
    """The compiler with the variables that the policy's own suite declares."""
    policy = yaml.safe_load((HERE / "loop" / "tuningpolicy.yaml").read_text())
    (domain,) = policy["spec"]["domains"]
    variables = domain["jobTemplate"]["spec"]["evaluation"]["suites"][0]["scorer"]["cel"]["variables"]
    return Judge({variable["name"]: variable["type"] for variable in variables})


def spoilt(question: str) -> str:
    """The same question as a ticket."""
    return MARK + question


def tickets(world: Path, *, wrong: bool) -> str:
    """Training data in the form of tickets, as JSON lines: with the world's own answers, or with ones that do not compile."""
    lines = []
    for line in (world / "data" / "rules.jsonl").read_text().splitlines()[:TICKETS]:
        question, answer = (message["content"] for message in json.loads(line)["messages"])
        said = WRONG if wrong else answer
        messages = [{"role": "user", "content": spoilt(question)}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": messages}) + "\n")
    return "".join(lines)
