"""What pairs say and nobody asked: in pairs that were made by hand mostly a name that was mistyped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from graft_api.collect import PairLine
from graft_evaluation.paired.summary import Plan
from graft_evaluation.pairs.contrasts import CONTROL, INSTRUMENT, PRODUCTION

CONTRASTS = frozenset({PRODUCTION, CONTROL, INSTRUMENT})
MOST_NAMES = 32
"""Of each sort; all others are counted as one. Names come out of files, which may hold any number of them."""
OTHERS = "others"
LONGEST_NAME = 80


@dataclass
class Unknown:
    """Names that nobody knows, with the lines that have them."""

    fields: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    """Contrasts of values, or of scorers that broke."""
    left_out_of: Counter[str] = field(default_factory=Counter)
    """Contrasts."""
    metrics: Counter[str] = field(default_factory=Counter)
    """contrast.metric"""

    def note(self, line: PairLine, plans: Mapping[str, Plan]) -> None:
        """Take one line, of whose contrasts `plans` are summed."""
        contrasts = line.values.keys() | line.broken.keys()
        _count(self.values, contrasts - CONTRASTS)
        _count(self.left_out_of, line.exclusions.keys() - CONTRASTS)
        for name in contrasts & CONTRASTS:
            asked = {metric.name for metric in plans[name].metrics} if name in plans else set()
            measured = line.values.get(name, {}).keys() | line.broken.get(name, {}).keys()
            _count(self.metrics, (f"{name}.{metric}" for metric in measured - asked))

    def note_fields(self, paths: Iterable[str]) -> None:
        """Take the fields of one line that no pair has."""
        _count(self.fields, paths)

    def notes(self) -> list[str]:
        """Return what a reader must know of them."""
        said: list[tuple[Counter[str], Callable[[int], str]]] = [
            (self.fields, lambda lines: f"{lines} lines have fields that no pair has, and were read without them"),
            (self.values, lambda lines: f"{lines} lines have values in contrasts nobody knows"),
            (self.left_out_of, lambda lines: f"{lines} lines are left out of contrasts nobody knows"),
            (self.metrics, lambda lines: f"{lines} lines have values of metrics that were not asked for"),
        ]
        return [f"{words(count)}: {name}" for names, words in said for name, count in names.most_common()]


def _count(names: Counter[str], found: Iterable[str]) -> None:
    short = {name[:LONGEST_NAME] for name in found}
    names.update({name if name in names or len(names) < MOST_NAMES else OTHERS for name in short})
