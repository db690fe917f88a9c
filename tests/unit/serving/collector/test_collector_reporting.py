"""The report of a test that has ended: its numbers are the verdict's, and whatever is in its way is said in words."""

import asyncio
import json
from hashlib import sha256

import pytest
from aiohttp.test_utils import TestServer
from collector_process import Cluster, Program, token
from collector_world import METRICS, NEW, OLD, Does, FakeGateway

from graft_api.collect import CollectorReport, CollectorSettings, ReportTask
from graft_api.comparison import Clock, Outcome
from graft_api.schema import Invalid, canonical_json, parse
from graft_evaluation.pairs import recorded
from graft_evaluation.report.document import Report
from graft_evaluation.verdict import verdict
from graft_serving.collector import chain as chains
from graft_serving.collector import reporting, reporting_process
from graft_serving.collector.commits import Progress
from graft_serving.collector.metrics import LOST
from graft_serving.collector.numbers import NEVER_CAME
from graft_serving.collector.readings import CAUSES, losses
from graft_serving.collector.reporting_process import Patient, Reporting, attempt
from graft_serving.collector.store import FolderStore, StoreAwayError

AT_THE_END = Clock(elapsed=200, duration=168, max_duration=200)


def does(version, prompt):
    number = int(prompt)
    return Does("no" if number % (5 if version == OLD else 3) == 0 else "yes", status=500 if number % 29 == 0 else 200)


@pytest.fixture
def ended(shadow, session, start):
    """Return how to run a test of three commits, the last of which the verdict does not know: its task and its store."""

    async def run(**changes):
        shadow.does = does
        world = await start(controlShare="0.5", limits={"minClusters": 20}, shadow={"concurrency": 32}, **changes)
        gateway, commits = FakeGateway(), []
        for part in range(3):
            batch = [gateway.exchange(str(60 * part + i), "yes" if i % 7 else "no") for i in range(60)]
            batch += [gateway.exchange("0", status=499), gateway.exchange("0", status=502)]
            gateway.numbered += 2  # which never come
            await gateway.deliver(session, world.url, batch)
            await world.idle()
            world.reporter._read_at = float("-inf")
            await world.commit()
            commits.append(world.reporter.picture(part))
        told = commits[1]
        answer = verdict(told.comparison, world.compare.limits, AT_THE_END)
        assert answer.outcome in {Outcome.FAILED, Outcome.INCONCLUSIVE}
        await world.kill()
        return ReportTask(compare=world.compare, verdict=answer, commit=told.commit), told

    return run


def read(folder, reported):
    content = {name: (folder / name).read_bytes() for name in ("report.html", "report.json")}
    digests = [f"sha256:{sha256(content[name]).hexdigest()}" for name in content]
    assert digests == [reported.html_digest, reported.json_digest]
    return content["report.html"].decode(), Report.model_validate_json(content["report.json"])


async def test_the_report_says_what_the_verdict_was_read_from_and_nothing_newer(ended, tmp_path):
    task, told = await ended(content="Full")
    reported = attempt(task, lambda: FolderStore(tmp_path / "store"))
    assert (reported.test_uid, reported.problem) == ("u-1", None)
    page, report = read(tmp_path / "store", reported)
    assert report.verdict == task.verdict
    assert report.comparison == told.comparison
    assert report.notes == []
    assert report.pairs == told.comparison.contrasts[0].pairs == sum(period.pairs for period in report.plots[0].periods)
    for metric in task.verdict.metrics:
        assert metric.sentence in page
        shown = next(c for c in report.comparison.contrasts if c.name == metric.contrast)
        assert next(r for r in shown.metrics if r.metric.name == metric.name).overall == metric.reading.overall
    assert report.comparison.lost_pairs == told.comparison.lost_pairs > 0
    assert "client-left" in page
    assert {tally.of: tally.count for tally in report.lost} == told.lost == {"never-came": 2}
    assert "lost: never-came</td><td>numbered by a gateway, and never came" in page
    assert report.worst
    assert report.worst[0].candidate.text in {"no", None}


def test_every_cause_of_a_loss_is_said_in_words():
    assert set(CAUSES) == {*LOST, NEVER_CAME}
    progress = Progress(lost={"overload": 2, "of-a-later-version": 1})
    assert [(tally.of, tally.what, tally.count) for tally in losses(progress, 0.0)] == [
        ("of-a-later-version", "a gateway's cause", 1),
        ("overload", "the shadow took less than came", 2),
    ]


async def test_without_a_commit_the_report_is_of_all_and_says_that_it_is(ended, tmp_path):
    task, told = await ended()
    reported = attempt(task.model_copy(update={"commit": None}), lambda: FolderStore(tmp_path / "store"))
    _, report = read(tmp_path / "store", reported)
    assert report.pairs > told.comparison.contrasts[0].pairs
    assert report.verdict == task.verdict
    assert "fewer or other pairs" in report.notes[0]


async def test_no_report_is_written_over_another_tests_though_its_verdict_knows_no_commit(ended, tmp_path):
    task, _ = await ended()
    other = task.model_copy(update={"commit": 0, "compare": task.compare.model_copy(update={"uid": "u-2"})})
    reported = attempt(other, lambda: FolderStore(tmp_path / "store"))
    assert (reported.html_digest, reported.test_uid) == (None, "u-2")
    assert "of another test" in reported.problem
    assert not (tmp_path / "store" / "report.html").exists()


async def test_of_a_verdict_without_a_commit_the_report_shows_no_pair(ended, tmp_path):
    task, _ = await ended()
    _, report = read(tmp_path / "store", attempt(task.model_copy(update={"commit": 0}), lambda: FolderStore(tmp_path / "store")))
    assert (report.pairs, report.comparison.contrasts[0].pairs) == (0, 0)


async def test_beyond_the_last_snapshots_the_report_is_of_all_and_says_that_it_is(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(chains, "SNAPSHOT_EVERY", 1)
    task, _ = await ended()
    _, report = read(tmp_path / "store", attempt(task.model_copy(update={"commit": 1}), lambda: FolderStore(tmp_path / "store")))
    assert "beyond commit 1" in report.notes[0]


async def test_of_too_many_pairs_some_are_drawn_and_deleted_ones_are_told_of(ended, tmp_path, monkeypatch):
    monkeypatch.setattr(reporting, "MOST_BYTES", 1)
    task, told = await ended()
    store = FolderStore(tmp_path / "store")
    _, report = read(tmp_path / "store", attempt(task, lambda: store))
    pairs = told.comparison.contrasts[0].pairs
    assert report.notes == [f"Drawings and worst pairs are of {pairs // 2} of {pairs} pairs. The verdict is of all."]
    assert (report.pairs, report.comparison) == (pairs, told.comparison)
    monkeypatch.undo()
    store.delete(store.list("pairs/")[0])
    _, report = read(tmp_path / "store", attempt(task, lambda: store))
    assert report.notes[-1] == "1 segments are older than the retention and were deleted."
    assert report.comparison == told.comparison


async def test_a_test_without_a_single_pair_has_a_report(shadow, session, start, tmp_path):
    shadow.up = False
    world = await start()
    await world.commit()
    told = world.reporter.picture(1)
    answer = verdict(told.comparison, world.compare.limits, AT_THE_END)
    await world.kill()
    task = ReportTask(compare=world.compare, verdict=answer, commit=1)
    page, report = read(tmp_path / "store", attempt(task, lambda: FolderStore(tmp_path / "store")))
    assert (report.pairs, report.verdict) == (0, answer)
    assert answer.reasons[0] in page


async def test_a_segment_that_was_changed_is_no_evidence(ended, tmp_path):
    task, _ = await ended()
    store = FolderStore(tmp_path / "store")
    path = store.list("pairs/")[1]
    store.write(path, store.read(path) + b"\n")
    assert attempt(task, lambda: store).problem == f"{path} is not what was committed"


async def test_the_pairs_of_another_test_make_no_report(ended, tmp_path):
    task, _ = await ended()
    other = task.model_copy(update={"compare": task.compare.model_copy(update={"uid": "u-2"})})
    reported = attempt(other, lambda: FolderStore(tmp_path / "store"))
    assert reported.test_uid == "u-2"
    assert "of another test" in reported.problem


class Away(FolderStore):
    """Away for its first calls."""

    def __init__(self, root, calls):
        super().__init__(root)
        self.left = calls

    def list(self, prefix):
        self.left -= 1
        if self.left >= 0:
            raise StoreAwayError("the store is away")
        return super().list(prefix)


async def test_a_store_that_is_away_is_waited_for_and_not_for_ever(ended, tmp_path, monkeypatch):
    task, _ = await ended()
    monkeypatch.setattr(reporting_process, "Patient", lambda store: Patient(store, seconds=0.2, pause=0.01))
    assert attempt(task, lambda: Away(tmp_path / "store", 5)).problem is None
    assert attempt(task, lambda: Away(tmp_path / "store", 10**6)).problem == "the store is away"


async def test_a_process_that_dies_while_it_writes_is_told_of(ended, tmp_path, monkeypatch):
    task, _ = await ended()
    broken = task.model_copy(update={"compare": task.compare.model_copy(update={"metrics": []})})
    reported = await Reporting(broken, tmp_path, lambda _: None).write()
    assert (reported.test_uid, reported.problem) == ("u-1", "the process that writes it ended with 1")
    monkeypatch.setattr(reporting_process, "LONGEST_SECONDS", 0.01)
    assert "was not written within" in (await Reporting(task, tmp_path, lambda _: None).write()).problem


async def test_a_collector_with_a_report_to_write_takes_what_still_comes_and_tells_when_it_is_done(ended, session, tmp_path):
    task, _ = await ended()
    cluster = Cluster()
    async with TestServer(cluster.application()) as server:
        program = Program(tmp_path, str(server.make_url("")).rstrip("/"), CollectorSettings(report=task))
        try:
            await program.start()
            gateway = FakeGateway(token=token())
            await gateway.deliver(session, program.url, [gateway.exchange("late")])
            async with asyncio.timeout(20):
                while not any("reported" in told for _, told in cluster.reports):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        finally:
            await program.end(15)
            program.log.close()
    report = parse(CollectorReport, cluster.reports[-1][1])
    page, _ = read(tmp_path / "store", report.reported)
    assert task.verdict.sentence.split(": ")[0] in page
    assert len(FolderStore(tmp_path / "store").list("commits/")) == 3, "what came late is nobody's"


def test_settings_that_a_report_needs_survive_the_way_to_the_collector(tmp_path):
    compare = {"test": "t", "uid": "u", "domain": "dsl", "incumbent": OLD, "candidate": NEW, "shadow": {"address": "h:1"}, "seed": 1,
               "metrics": METRICS, "store": f"file://{tmp_path}"}  # fmt: skip
    told = {"report": {"compare": compare, "verdict": {"outcome": "Error", "sentence": "Error: x"}, "commit": 7}}
    settings = parse(CollectorSettings, told)
    assert parse(CollectorSettings, json.loads(canonical_json(settings.to_json()))) == settings
    assert settings.report.commit == 7


def test_segments_are_read_from_memory_as_files_are(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b"{}\n")
    with file.open("rb") as stream:
        found = (recorded.lines(recorded.Found((file,))), recorded.stream_lines(stream, file))
        words = []
        for pairs in found:
            with pytest.raises(Invalid, match=r"pairs\.jsonl:1: boot: Field required") as invalid:
                list(pairs)
            words.append(invalid.value.problems)
    assert words[0] == words[1]
