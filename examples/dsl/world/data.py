"""The example's data files, one JSON object per line; no file shares an expression with the held-out set."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .grammar import Dialect, Rule, draw_rule

PRODUCTION_SHARE: Final = 0.18
"""Share of clauses with a changed construct in what users really ask: about 40 % of the held-out rules have at least one."""
TAUGHT_SHARE: Final = 0.5
"""The same share in pre-training and training data, which shows more of what went wrong."""


@dataclass(frozen=True)
class DataPlan:
    """How many rows to write and from which seed."""

    seed: int = 11
    messages: int = 3_500
    instructions: int = 500
    heldout: int = 1_000


def write_data(folder: Path, plan: DataPlan) -> None:
    """Write `rules.jsonl`, `rules-instruction.jsonl` and `heldout.jsonl` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    taught = unique_rules(random.Random(plan.seed), TAUGHT_SHARE, heldout=False)
    asked = unique_rules(random.Random(plan.seed + 1), PRODUCTION_SHARE, heldout=True)
    _write(folder / "rules.jsonl", [as_messages(next(taught)) for _ in range(plan.messages)])
    _write(folder / "rules-instruction.jsonl", [as_instruction(next(taught)) for _ in range(plan.instructions)])
    _write(folder / "heldout.jsonl", [as_messages(next(asked)) for _ in range(plan.heldout)])


def unique_rules(rng: random.Random, changed_share: float, *, heldout: bool) -> Iterator[Rule]:
    """Endless rules from one side of the split, no prompt twice."""
    seen: set[str] = set()
    while True:
        rule = draw_rule(rng, changed_share)
        if rule.heldout() is heldout and rule.prompt not in seen:
            seen.add(rule.prompt)
            yield rule


def pretraining_rule(rng: random.Random) -> Rule:
    """A rule for the base model's pre-training; repeats are welcome there, held-out expressions are not."""
    while (rule := draw_rule(rng, TAUGHT_SHARE)).heldout():
        continue
    return rule


def as_messages(rule: Rule, dialect: Dialect = Dialect.CURRENT) -> dict[str, Any]:
    """A rule as a conversation of one turn."""
    return {"messages": [{"role": "user", "content": rule.prompt}, {"role": "assistant", "content": rule.expression(dialect)}]}


def as_instruction(rule: Rule) -> dict[str, Any]:
    """A rule in instruction format."""
    return {"instruction": rule.prompt, "input": "", "output": rule.expression()}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
