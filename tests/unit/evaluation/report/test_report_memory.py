"""What is kept of pairs: bounded, and no less exact for it."""

import random
import tracemalloc

import pytest
from simulated_pairs import METRICS, simulated

from graft_api.collect import Told
from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs import recording as recordings
from graft_evaluation.pairs import stretches as sums_by_time
from graft_evaluation.pairs.contrasts import summed
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import Place
from graft_evaluation.pairs.recording import gathered, recording
from graft_evaluation.pairs.seen import Seen


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "metrics.yaml").write_text(METRICS)
    return question(tmp_path, None)


def read(asked, lines, how=recording):
    return how(asked, ((Place(None, number), line) for number, line in enumerate(lines)))


@pytest.mark.parametrize("hours", [20, 100], ids=["hours", "days"])
@pytest.mark.parametrize("order", ["by time", "by chance"])
def test_what_was_packed_in_between_adds_up_to_the_same_bits(order, hours, asked, monkeypatch):
    monkeypatch.setattr(sums_by_time, "WAITING_ROWS", 50)
    monkeypatch.setattr(recordings, "CHUNK", 40)
    lines = simulated(120, 0.2, hours=hours)
    lines.sort(key=lambda line: line.at) if order == "by time" else random.Random(3).shuffle(lines)  # noqa: S311
    found = read(asked, lines)
    for name, plan in asked.plans.items():
        assert to_bytes(found.sums[name]) == to_bytes(summed(plan, lines)), name
        stretches = found.stretches[name]
        assert stretches.seconds == (3600 if hours == 20 else 86_400)
        for start, summary in stretches.sums():
            here = [line for line in lines if start <= line.at < start + stretches.seconds]
            assert to_bytes(summary) == to_bytes(summed(plan, here)), (name, start)


def test_content_is_not_held_beyond_what_is_looked_at(asked):
    def long(lines):
        for line in lines:
            said = line.candidate.model_copy(update={"told": Told(text="x" * 50_000)})
            yield line.model_copy(update={"candidate": said, "request": "y" * 50_000})

    lines = simulated(300, 0.3)
    tracemalloc.start()
    found = read(asked, long(lines), gathered)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.lines == len(lines)
    assert most < len(lines) * 100_000 / 2, "all of it would be more"
    kept = [regression.line for heap in found.regressions.values() for regression in heap]
    assert all(len(line.request) < 4100 and len(line.candidate.told.text) < 4100 for line in kept)


def test_a_pair_is_known_by_boot_and_number():
    seen = Seen()
    pairs = [("a", 0), ("a", 1023), ("a", 1024), ("b", 0), ("a", 10**15), ("a", 7)]
    assert [seen.add(*pair) for pair in pairs] == [True] * 6
    assert [seen.add(*pair) for pair in reversed(pairs)] == [False] * 6
    assert seen.add("b", 1)
