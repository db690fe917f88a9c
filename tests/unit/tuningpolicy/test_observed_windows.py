"""Hours of observations added up to windows, and for how much of them a collector looked; against a count by brute force."""

import random

import pytest

from graft_api.collect import OBSERVED_HOURS, CollectorReport, CollectorSettings, Mode, Observe
from graft_api.schema import canonical_json, parse
from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import Progress
from graft_serving.collector.journal import Clock
from graft_serving.collector.lanes import Surroundings, observe_lane
from graft_serving.collector.observed import COVERED, SUM, UNIT, Cell, Key, ObservedSegment, ObservedSum, hours_between, observed_algebra
from graft_serving.collector.reporter import Reporter
from graft_serving.collector.store import FolderStore
from graft_serving.collector.windows import MOST_SCORES, windows

HOUR = 3600.0
NOW = 500_000 * HOUR + 1234.0
THIS = 500_000


def observe(*scores, domains=("dsl",)):
    named = scores or ({"name": "compile", "scorer": {"cel": {}}},)
    return parse(Observe, {"store": "file:///nowhere", "domains": [{"domain": domain, "scores": list(named)} for domain in domains]})


def covered(hours, seconds=HOUR):
    return {Key(hour, COVERED, COVERED, COVERED): Cell(units=round(seconds / UNIT)) for hour in hours}


def total(cells):
    found = ObservedSum()
    found.cells = dict(cells)
    return found


def test_windows_are_what_brute_force_counts():
    chance = random.Random(11)  # noqa: S311 - of a test
    cells = {}
    for hour in range(THIS - 800, THIS + 3):
        for version in ("a", "b"):
            count = chance.randrange(50)
            cells[Key(hour, "dsl", version, "compile")] = Cell(count=count, right=chance.randrange(count + 1))
            cells[Key(hour, "dsl", version, "compile")].broken["Timeout"] = chance.randrange(3)
        cells[Key(hour, "other", "a", "compile")] = Cell(count=1000)
        cells[Key(hour, "dsl", "a", "latency")] = Cell(count=1000)
    found = windows(observe(), total(cells), NOW)
    (counts,) = found.counts
    for place, hours in enumerate(OBSERVED_HOURS):
        inside = [cell for key, cell in cells.items() if (key.domain, key.score) == ("dsl", "compile") and THIS - hours <= key.hour <= THIS]
        assert counts.answers[place] == sum(cell.count for cell in inside)
        assert counts.wrong[place] == sum(cell.count - cell.right for cell in inside)
        assert counts.broken[place] == sum(cell.broken["Timeout"] for cell in inside)


def test_coverage_is_of_the_window_and_the_hour_that_has_begun():
    found = windows(observe(), total(covered(range(THIS - 24, THIS)) | covered([THIS], 1234.0)), NOW)
    shares = dict(zip(OBSERVED_HOURS, found.covered, strict=True))
    assert shares[24] == pytest.approx(1.0)
    assert shares[72] == pytest.approx((24 * HOUR + 1234) / (72 * HOUR + 1234))
    half = windows(observe(), total(covered(range(THIS - 24, THIS, 2))), NOW)
    assert dict(zip(OBSERVED_HOURS, half.covered, strict=True))[24] == pytest.approx(12 * HOUR / (24 * HOUR + 1234))


def test_an_hour_is_never_covered_twice_and_not_before_it_is_over():
    """A clock that was set back, and forward again."""
    found = windows(observe(), total(covered(range(THIS - 6, THIS + 20), 2 * HOUR)), NOW)
    assert found.covered[:2] == [1.0, 1.0]


def test_scores_that_are_neither_right_nor_wrong_are_not_told():
    wanted = observe(
        {"name": "latency", "measure": "Latency"}, {"name": "errors", "measure": "ServerError"}, {"name": "judge", "scorer": {"cel": {}}}
    )
    assert [counts.score for counts in windows(wanted, total({}), NOW).counts] == ["errors", "judge"]


def test_a_report_stays_small_and_says_what_it_left_out():
    scores = [{"name": f"score-{number}-{'x' * 50}", "scorer": {"cel": {}}} for number in range(16)]
    wanted = observe(*scores, domains=[f"domain-{number}-{'y' * 45}" for number in range(10)])
    cells = {Key(THIS, domain.domain, "v", score["name"]): Cell(count=2_000_000_000) for domain in wanted.domains for score in scores}
    found = windows(wanted, total(cells), NOW)
    assert (len(found.counts), found.left_out) == (MOST_SCORES, 160 - MOST_SCORES)
    report = CollectorReport(boot="b", sequence=1, mode=Mode.OBSERVE, observed=found)
    assert len(canonical_json(report.to_json())) < 128 * 1024


def test_what_a_segment_was_open_for_is_looked_at_whether_anything_came_or_not():
    segment = ObservedSegment()
    sealed = segment.seal(THIS * HOUR - 100, (THIS + 2) * HOUR + 50, Progress())
    told = {key.hour: cell.units * UNIT for key, cell in sealed.sums[SUM].cells.items()}
    assert told == {THIS - 1: 100.0, THIS: HOUR, THIS + 1: HOUR, THIS + 2: 50.0}
    assert ObservedSegment().seal(5.0, 5.0, Progress()).sums == {}


def test_hours_are_those_in_between():
    assert list(hours_between(THIS * HOUR - 100.0, (THIS + 1) * HOUR)) == [(THIS - 1, 100.0), (THIS, 3600.0)]
    assert not list(hours_between(NOW, NOW - 10))


class TestReporter:
    def test_what_is_committed_is_told_also_by_the_next_process(self, tmp_path):
        now, settings = [NOW], CollectorSettings(observe=observe())
        first = self.chain(tmp_path, "w1")
        segment = ObservedSegment()
        segment.cell(Key(THIS, "dsl", "v1", "compile")).add(0.0, right=False)
        first.commit(segment.seal(NOW - 60, NOW, Progress()))
        second = self.chain(tmp_path, "w2")
        reporter = Reporter("boot", settings, lambda: now[0], lambda: None)
        assert reporter.picture(1).observed is None
        reporter.count(second)
        told = reporter.picture(2).observed
        assert (told.at, told.counts[0].answers[0], told.counts[0].wrong[0]) == (int(NOW), 1, 1)
        assert told.covered[0] == pytest.approx(60 / (HOUR + 1234))
        now[0] += 5
        reporter.count(second)
        assert reporter.picture(3).observed.at == int(NOW)
        now[0] += 6
        reporter.count(second)
        assert reporter.picture(4).observed.at == int(NOW) + 11

    def chain(self, folder, writer):
        chain = Chain(FolderStore(folder), writer, observed_algebra())
        chain.resume()
        return chain

    async def test_the_lane_of_production_tells_it(self, tmp_path):
        """Put together as the process does it."""
        wanted = observe().model_copy(update={"store": f"file://{tmp_path}"})
        reporter = Reporter("boot", CollectorSettings(observe=wanted), lambda: NOW, lambda: None)
        clock = Clock(lambda: NOW, lambda: NOW)
        service, _ = observe_lane(wanted, Surroundings("w1", tmp_path, {}, clock, random.Random(1)), reporter)  # noqa: S311 - of a test
        await service.journal.resume()
        service.committed()
        assert reporter.picture(1).observed.counts[0].answers == [0] * len(OBSERVED_HOURS)
        await service.close()
