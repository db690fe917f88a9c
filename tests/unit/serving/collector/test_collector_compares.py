# ruff: noqa: PLR0917 -- fixtures
import asyncio
from collections import Counter
from random import Random

import pytest
from collector_world import METRICS, NEW, OLD, START, Does, FakeGateway, committed, key
from prometheus_client import CollectorRegistry

from graft_api.collect import Content
from graft_evaluation.paired.outcomes import Answer
from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs.contrasts import CONTROL, INSTRUMENT, PRODUCTION, plans, summed
from graft_evaluation.pairs.sides import Said, Side
from graft_serving.backoff import Backoff
from graft_serving.collector.drawing import Purpose, place
from graft_serving.collector.journal import Clock
from graft_serving.collector.metrics import CompareMetrics
from graft_serving.collector.numbers import SILENT_SECONDS
from graft_serving.collector.pseudonyms import pseudonym_key
from graft_serving.collector.redactor import Redactor
from graft_serving.collector.shadow import AwayError, Gate, GivenUpError, Reply
from graft_serving.collector.store import away

REPLY = Reply(Side(Said(Answer.COMPLETE, "yes"), 0.1), 200, b"yes")
BROKEN_OFF = Reply(Side(Said(Answer.ERROR), 0.1), 0, b"")


@pytest.fixture
def gateway():
    return FakeGateway()


async def test_a_pair_goes_from_the_gateway_to_the_store(gateway, shadow, session, start, tmp_path):
    world = await start(controlShare="1")
    shadow.does = lambda version, prompt: Does("yes it is" if version == NEW else "no")
    await gateway.deliver(session, world.url, [gateway.exchange("is it?", "no")])
    await world.idle()
    await world.commit()
    chain, (line,) = committed(tmp_path / "store", world.compare)
    assert line.values[PRODUCTION] == {"wrong": (1.0, 0.0), "length": (2.0, 9.0)}
    assert line.values[INSTRUMENT] == {"wrong": (1.0, 1.0), "length": (2.0, 2.0)}
    assert line.values[CONTROL]["errors"] == (0.0, 0.0)
    assert all(0 < seconds < 1 for seconds in line.values[CONTROL]["latency"])
    assert chain.total.sums[PRODUCTION].summary.pairs.sum() == 1
    assert line.request is None
    assert line.production.told is None
    assert line.request_bytes
    assert sorted(version for version, _ in shadow.asked) == [NEW, OLD]


async def test_the_shadow_is_asked_as_the_client_asked(gateway, shadow, session, start):
    world = await start(controlShare="0", metrics=[world_metric()])
    body = {
        "model": "dsl",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 11,
        "max_tokens": 50,
        "stream": True,
    }
    await gateway.deliver(session, world.url, [gateway.exchange("q", stream=True, body=body)])
    await world.idle()
    ((version, asked),) = shadow.asked
    assert version == NEW
    assert {**body, "model": NEW} == {name: value for name, value in asked.items() if name != "stream_options"}
    assert shadow.headers[0]["traceparent"].startswith("00-0af7651916cd43dd")


def world_metric():
    metric = {"name": "wrong", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
    return {"metric": metric, "scorer": {"regex": {"pattern": "yes.*"}}}


BAD = {
    "an error": Does(status=500),
    "a refused request": Does(status=400),
    "a broken connection": Does(breaks=True),
    "a stop at the length limit": Does("yes yes", finish="length"),
    "an empty answer": Does(" "),
    "a timeout": Does("yes", seconds=1.4),
}


@pytest.mark.parametrize("does", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_whatever_the_candidate_fails_in_is_its_outcome(does, stream, gateway, shadow, session, start, tmp_path):
    world = await start(controlShare="0", metrics=[world_metric()])
    shadow.does = lambda version, prompt: does
    await gateway.deliver(session, world.url, [gateway.exchange("q", "yes", stream=stream)])
    await world.idle()
    await world.commit()
    chain, (line,) = committed(tmp_path / "store", world.compare)
    assert line.values[PRODUCTION] == {"wrong": (0.0, None)}
    summary = chain.total.sums[PRODUCTION].summary
    assert summary.missing.tolist() == [[0, 1]]
    assert summary.sums[0, :, :, 2].sum() == 1, "counted as wrong"


EXCLUDED = {
    "the client left": ({"status": 499}, "client-left", "Both"),
    "the client left a stream": ({"cause": "client-gone"}, "client-left", "Both"),
    "production answered with an error": ({"status": 502}, "production-failed", "Incumbent"),
    "no pod of production had it": ({"status": 503, "version": None, "cause": "no-pod"}, "production-failed", "Incumbent"),
    "the base served in its place": ({"version": "base"}, "fallback", "Incumbent"),
    "it was on the hold-back": ({"wanted": "dsl-other", "version": "dsl-other"}, "other-version", "Both"),
    "production refused the request": ({"status": 400}, "request-refused", "Both"),
}


@pytest.mark.parametrize(("changes", "cause", "side"), EXCLUDED.values(), ids=EXCLUDED.keys())
async def test_what_is_no_pair_is_counted_by_cause_and_never_asked(changes, cause, side, gateway, shadow, session, start, tmp_path):
    world = await start()
    await gateway.deliver(session, world.url, [gateway.exchange("q", **changes)])
    await world.commit()
    chain, lines = committed(tmp_path / "store", world.compare)
    assert dict(chain.total.sums[PRODUCTION].summary.tallies.exclusions) == {(cause, side): 1}
    assert not lines
    assert not shadow.asked


BODIES = {
    "a tool of the server": ({"tools": [{"type": "web_search"}]}, "server-tools"),
    "a search option": ({"web_search_options": {}, "mcp_servers": [{"url": "x"}]}, "server-tools"),
    "several answers": ({"n": 3}, "several-answers"),
    "media of another host": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
        "not-replayable",
    ),
}


@pytest.mark.parametrize(("fields", "cause"), BODIES.values(), ids=BODIES.keys())
async def test_a_request_that_must_not_be_asked_again_is_not(fields, cause, gateway, shadow, session, start):
    world = await start()
    body = {"model": "dsl", "messages": [{"role": "user", "content": "q"}], **fields}
    await gateway.deliver(session, world.url, [gateway.exchange("q", body=body)])
    await world.idle()
    assert dict(world.journal.open.exclusions) == {(cause, "Both"): 1}
    assert not shadow.asked


async def test_a_production_stream_that_broke_off_is_no_pair(gateway, shadow, session, start):
    world = await start()
    head, request, answer = gateway.exchange("q", "yes it is", stream=True)
    await gateway.deliver(session, world.url, [(head, request, answer[:-60])])
    await world.idle()
    assert dict(world.journal.open.exclusions) == {("production-failed", "Incumbent"): 1}
    assert not shadow.asked


async def test_what_comes_twice_counts_once(gateway, session, start):
    world = await start()
    batch = [gateway.exchange("a"), gateway.exchange("b")]
    await gateway.deliver(session, world.url, batch)
    await gateway.deliver(session, world.url, batch)
    await world.idle()
    await gateway.deliver(session, world.url, batch)
    assert world.lane.duplicates == 4
    await world.commit()
    assert world.journal.chain.total.sums[PRODUCTION].summary.pairs.sum() == 2


async def test_the_order_of_the_control_share_is_drawn_and_the_share_is_of_conversations(gateway, shadow, session, start, tmp_path):
    world = await start(controlShare="0.5")
    batch = [gateway.exchange("q", conversation=f"c{i % 60}") for i in range(240)]
    await gateway.deliver(session, world.url, batch)
    await world.idle()
    await world.commit()
    _, lines = committed(tmp_path / "store", world.compare)
    controlled = {line.conversation for line in lines if line.candidate_first is not None}
    assert not controlled & {line.conversation for line in lines if line.candidate_first is None}
    assert 15 < len(controlled) < 45
    first = [line.candidate_first for line in lines if line.candidate_first is not None]
    assert 0.3 < sum(first) / len(first) < 0.7


async def test_what_waits_or_is_asked_is_not_lost_until_the_collector_dies_with_it(gateway, shadow, session, start):
    now = [1000.0]
    clock = Clock(lambda: START + now[0], lambda: now[0])
    options = {"clock": clock, "controlShare": "0", "metrics": [world_metric()], "shadow": {"concurrency": 2, "timeoutSeconds": 300}}
    world = await start(**options)
    shadow.does = lambda version, prompt: Does(seconds=3 if prompt == "slow" else 0)
    await gateway.deliver(session, world.url, [gateway.exchange("quick")])
    await world.idle()
    slow = [gateway.exchange("slow") for _ in range(7)]
    await gateway.deliver(session, world.url, slow[:5])  # the other two are under way in production
    async with asyncio.timeout(30):
        while len(shadow.asked) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert await lost(world) == (0, {}, 0, {"graft_compare_missing": 0})
    now[0] += SILENT_SECONDS + 1
    assert await lost(world) == (0, {"never-came": 2}, 2, {"graft_compare_missing": 2}), "what its gateway never sent, as that is dead"
    await world.kill()
    again = await start(writer="w2", **options)
    assert await lost(again) == (0, {"never-came": 7}, 7, {"graft_compare_missing": 7})
    await again.kill()


async def lost(world):
    """Commit, and return what is lost: left out here, by cause, of this test, and in metrics that are not 0."""
    world.reporter._read_at = float("-inf")
    await world.commit()
    told, registry = world.reporter.picture(1), CollectorRegistry()
    registry.register(CompareMetrics(world.lane, world.equipment, world.clock.now))
    families = [family for family in registry.collect() if family.name in {"graft_compare_lost", "graft_compare_missing"}]
    shown = {sample.name: sample.value for family in families for sample in family.samples if family.type == "gauge" or sample.value}
    assert "never-came" not in {sample.labels.get("cause") for family in families for sample in family.samples}
    return world.journal.lost.total(), told.lost, told.comparison.lost_pairs, shown


async def test_summaries_are_what_the_lines_say(gateway, shadow, session, start, tmp_path):
    world = await start(controlShare="0.5")
    fails = {(NEW, f"q{part}{i}") for part in range(3) for i in range(7, 40, 10)}
    shadow.does = lambda version, prompt: Does("yes" if int(prompt[-1]) % 3 else "no", status=500 if (version, prompt) in fails else 200)
    for part in range(3):
        await gateway.deliver(session, world.url, [gateway.exchange(f"q{part}{i}", conversation=f"c{i}") for i in range(40)])
        await world.idle()
        await world.commit()
    chain, lines = committed(tmp_path / "store", world.compare)
    assert len(lines) == 120
    for name, plan in plans(world.compare).items():
        assert to_bytes(chain.total.sums[name].summary) == to_bytes(summed(plan, lines)), name


async def test_the_first_control_pairs_of_a_cold_shadow_are_no_measure_of_its_speed(gateway, session, start, tmp_path):
    world = await start(controlShare="1", warmUpRequests=3)
    await gateway.deliver(session, world.url, [gateway.exchange("q") for _ in range(10)])
    await world.idle()
    await world.commit()
    sums = world.journal.chain.total.sums
    assert not sums[CONTROL].summary.tallies.exclusions
    assert sums[PRODUCTION].summary.pairs.sum() == 10
    _, lines = committed(tmp_path / "store", world.compare)
    assert Counter(tuple(line.values[CONTROL]) for line in lines) == {("errors",): 3, ("latency", "errors"): 7}


async def test_where_only_times_are_compared_cold_pairs_are_left_out(gateway, session, start):
    world = await start(controlShare="1", warmUpRequests=3, metrics=[METRICS[0], METRICS[2]])
    await gateway.deliver(session, world.url, [gateway.exchange("q") for _ in range(10)])
    await world.idle()
    await world.commit()
    control = world.journal.chain.total.sums[CONTROL].summary
    assert (control.pairs.sum(), dict(control.tallies.exclusions)) == (7, {("warm-up", "Both"): 3})


@pytest.mark.parametrize("warm_up", [0, 20])
@pytest.mark.parametrize("culprit", [NEW, OLD], ids=["candidate", "incumbent"])
async def test_who_brings_the_shadow_down_and_is_asked_first_has_the_error_though_it_comes_back(
    culprit, warm_up, gateway, shadow, session, start, tmp_path
):
    world = await start(controlShare="1", warmUpRequests=warm_up, shadow={"waitingSeconds": 60, "concurrency": 1})

    def crash(version, prompt):
        if version != culprit:
            return Does()
        shadow.up = False
        return Does(breaks=True)

    shadow.does = crash
    exchanges = [gateway.exchange("q") for _ in range(20)]
    first = next(e for e in exchanges if (place(7, Purpose.ORDER, f"gateway-a:{e[0].number}") < 0.5) is (culprit == NEW))
    await gateway.deliver(session, world.url, [first])
    async with asyncio.timeout(30):
        while world.equipment.gate.away is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    shadow.up = True
    await world.idle()
    await world.commit()
    _, (line,) = committed(tmp_path / "store", world.compare)
    assert line.values[CONTROL] == {"errors": (float(culprit == OLD), float(culprit == NEW))}
    assert not line.exclusions
    assert world.equipment.gate.returns == 1


@pytest.mark.parametrize(
    ("failures", "told", "returns"),
    [(1, False, 0), (3, False, 0), (5, False, 1), (1, True, 1)],
    ids=["a stray one", "a few", "an outage", "its door said so"],
)
async def test_only_after_an_outage_is_a_shadow_cold(failures, told, returns):
    left, changes = [failures], []
    gate = Gate(Backoff(0.001, 0.002, Random(1)), changes.append)  # noqa: S311

    async def question():
        if left[0]:
            left[0] -= 1
            raise AwayError("no connection", told=told)
        return REPLY

    await gate.ask(question, lambda: False)
    await gate.ask(question, lambda: False)
    assert (gate.returns, changes) == (returns, [False, True])


@pytest.mark.parametrize(("content", "kept"), [("Full", True), ("Redacted", False), ("None", False)])
async def test_only_as_much_content_is_kept_as_may_be(content, kept, gateway, shadow, session, start, tmp_path):
    world = await start(content=content, controlShare="1")
    shadow.does = lambda version, prompt: Does("yes the secret answer")
    await gateway.deliver(session, world.url, [gateway.exchange("the secret question", "yes the secret answer")])
    await world.idle()
    await world.commit()
    _, (line,) = committed(tmp_path / "store", world.compare)
    assert ("secret" in line.model_dump_json()) is kept
    stored = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert kept or b"secret" not in stored
    assert (line.request_id == "gateway-a-1", line.conversation == key("gateway-a-1")) == (kept, kept)
    assert kept or (b"gateway-a-1" not in stored and key("gateway-a-1").encode() not in stored)
    assert (line.request_id == "") is (content == "None")
    if content == "Redacted":
        assert line.production.digest == line.candidate.digest
        assert line.production.characters == 21
    if content == "None":
        assert (line.production.digest, line.production.characters, line.request_digest, line.request_bytes) == (None, None, None, None)


@pytest.mark.parametrize("secret", [{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "secret"}, {}], ids=["credentials", "a volume"])
def test_a_conversation_keeps_its_name_over_a_restart_and_has_another_in_every_test(secret, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, content in secret.items():
        (tmp_path / name).write_text(content)
    run = tmp_path / "run"
    run.mkdir()
    names = [
        Redactor(Content.REDACTED, bytes(32), pseudonym_key(uid, tmp_path, run, away)).conversation(key("c")) for uid in ("u", "u", "v")
    ]
    assert names[0] == names[1] != names[2]
    assert key("c") not in names
    assert [file.stat().st_mode & 0o777 for file in run.iterdir()] == ([] if secret else [0o600, 0o600])


async def test_the_conversations_of_a_test_go_on_after_a_restart(gateway, shadow, session, start, tmp_path):
    worlds = []
    for writer in ("w1", "w2"):
        worlds.append(await start(metrics=[world_metric()], writer=writer, run_directory=tmp_path))
        await gateway.deliver(session, worlds[-1].url, [gateway.exchange("q", conversation="c"), gateway.exchange("q")])
        await worlds[-1].idle()
        await worlds[-1].commit()
        await worlds[-1].kill()
    assert worlds[1].journal.chain.total.sums[PRODUCTION].summary.sample.table().distinct() == 3


@pytest.mark.parametrize("answers", [False, True], ids=["it fails", "it answers"])
async def test_a_candidate_after_whose_answer_the_shadow_is_gone_has_brought_it_down(answers, gateway, shadow, session, start, tmp_path):
    """Asked first; then nobody is there to answer for the incumbent."""
    now = [1000.0]
    clock = Clock(lambda: START + now[0], lambda: now[0])
    world = await start(clock=clock, controlShare="1", shadow={"waitingSeconds": 60, "concurrency": 1})

    def crash(version, prompt):
        if version == OLD:  # comes before: nothing is to be seen
            return Does()
        shadow.up = False
        return Does(breaks=not answers)

    shadow.does = crash
    exchanges = [gateway.exchange("q") for _ in range(20)]
    first = next(e for e in exchanges if place(7, Purpose.ORDER, f"gateway-a:{e[0].number}") < 0.5)
    await gateway.deliver(session, world.url, [first])
    async with asyncio.timeout(30):
        while world.equipment.gate.away is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    now[0] += 61
    await world.idle()
    await world.commit()
    _, (line,) = committed(tmp_path / "store", world.compare)
    if answers:
        assert line.exclusions == {CONTROL: ("shadow-away", "Both")}
        assert CONTROL not in line.values
    else:
        assert line.values[CONTROL] == {"errors": (0.0, 1.0)}
        assert not line.exclusions


async def test_a_shadow_that_is_away_is_waited_for_and_no_outcome(gateway, shadow, session, start):
    world = await start(controlShare="0", metrics=[world_metric()])
    shadow.up = False
    await gateway.deliver(session, world.url, [gateway.exchange("q")])
    await asyncio.sleep(0.1)
    assert world.equipment.gate.away == "its server is not up"
    shadow.up, shadow.versions = True, {OLD}
    async with asyncio.timeout(30):
        while world.equipment.gate.away != f"it does not have {NEW}":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    shadow.versions.add(NEW)
    await world.idle()
    await world.commit()
    assert world.journal.chain.total.sums[PRODUCTION].summary.missing.tolist() == [[0, 0]]
    assert world.equipment.gate.away is None


async def test_once_the_shadow_is_back_all_who_wait_are_asked_beside_each_other_however_late():
    now, up, under_way, most = [0.0], [False], [0], [0]
    gate = Gate(Backoff(0.001, 0.002, Random(1)))  # noqa: S311

    async def question():
        if not up[0]:
            raise AwayError("away")
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        await asyncio.sleep(0.02)
        under_way[0] -= 1
        now[0] += 100
        return REPLY

    asking = [asyncio.ensure_future(gate.ask(question, lambda: now[0] > 60)) for _ in range(9)]
    await asyncio.sleep(0.01)
    up[0] = True
    assert await asyncio.gather(*asking) == [REPLY] * 9, "what waits is not given up while the shadow is up"
    assert most[0] == 8, "the one that tried came before them"
    assert gate.away is None


@pytest.mark.parametrize(("reply", "opens"), [(REPLY, True), (BROKEN_OFF, False)], ids=["an answer", "one that broke off"])
async def test_only_a_whole_answer_says_that_a_shadow_which_others_found_away_is_there(reply, opens):
    gate, crashed = Gate(Backoff(0.001, 0.002, Random(1))), asyncio.Event()  # noqa: S311

    async def under_way():
        await crashed.wait()
        return reply

    async def away():
        crashed.set()
        raise AwayError("its server is not up", told=True)

    early = asyncio.ensure_future(gate.ask(under_way, lambda: False))
    await asyncio.sleep(0)
    with pytest.raises(GivenUpError):
        await gate.ask(away, lambda: True)
    assert await early == reply
    assert (gate.away is None, gate.returns) == (opens, int(opens))


async def test_a_request_that_waited_too_long_for_the_shadow_is_lost_and_counted(gateway, shadow, session, start):
    now = [1000.0]
    world = await start(clock=Clock(lambda: START + now[0], lambda: now[0]), shadow={"waitingSeconds": 60})
    shadow.up = False
    await gateway.deliver(session, world.url, [gateway.exchange("q")])
    await asyncio.sleep(0.05)
    now[0] += 61
    await world.idle()
    assert dict(world.journal.lost) == {"shadow-away": 1}
    assert not shadow.asked


async def test_no_more_than_so_many_are_asked_at_a_time(gateway, shadow, session, start):
    world = await start(shadow={"concurrency": 3})
    shadow.does = lambda version, prompt: Does(seconds=0.01)
    await gateway.deliver(session, world.url, [gateway.exchange("q") for _ in range(30)])
    await world.idle()
    assert shadow.most_under_way == 3


async def test_a_first_turn_is_told_from_later_ones(gateway, session, start, tmp_path):
    world = await start()
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    body = {"model": "dsl", "messages": turns}
    await gateway.deliver(session, world.url, [gateway.exchange("a", conversation="x"), gateway.exchange("c", conversation="x", body=body)])
    await world.idle()
    await world.commit()
    _, lines = committed(tmp_path / "store", world.compare)
    assert {line.number: line.first_turn for line in lines} == {1: True, 2: False}
    assert len({line.conversation for line in lines}) == 1
