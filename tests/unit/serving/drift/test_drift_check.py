"""One check of drift against servers that answer as vLLM's door and an embeddings endpoint do."""

import json
import math
from hashlib import sha256

import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port
from drift_world import CANDIDATE, INCUMBENT, PROMPTS, REFUNDS, TOKEN, TONE, completion

from graft_api.drift import Contrast, DriftDocument, DriftHistory, Moment
from graft_api.schema import parse
from graft_evaluation.drift import beyond
from graft_serving.collector.store import FolderStore, StoreAwayError
from graft_serving.drift.versions import ATTEMPTS

EAST, NORTH = 0.0, math.pi / 2


def angle(size):
    """At which the cosine distance from EAST is `size`."""
    return math.acos(1 - size)


def says(world, version, text, prompts=PROMPTS, size=None):
    for prompt in prompts:
        world.doors.says[version, prompt] = text
    if size is not None:
        world.vectors.angles[text] = angle(size)


def of(drifted, contrast, principle="refunds"):
    (found,) = [each for each in drifted.readings if each.contrast is contrast and each.principle == principle]
    return found


async def measured(world, **changes):
    check = await world.check(**changes)
    assert check.problem is None
    return check.measured


async def problem(world, **changes):
    check = await world.check(**changes)
    assert check.measured is None
    assert len(check.problem) <= 256
    return check.problem


async def test_versions_that_say_the_same_are_of_no_distance(world):
    found = await measured(world)
    reading = of(found, Contrast.VERSIONS)
    assert (reading.prompts, reading.mean, reading.low, reading.high) == (3, 0, 0, 0)
    assert beyond(found.readings, "0.3", Moment.BEFORE) == []


async def test_every_prompt_is_asked_greedily_with_its_system_prompt_and_the_token(world):
    await measured(world)
    assert world.doors.of(CANDIDATE) == dict.fromkeys(PROMPTS, 1)
    assert world.doors.of(INCUMBENT) == dict.fromkeys(PROMPTS, 2)
    assert world.doors.tokens == {f"Bearer {TOKEN}"}
    asked = next(body for body in world.doors.asked if body["model"] == CANDIDATE)
    system, user = asked["messages"]
    assert system == {"role": "system", "content": "You sell shoes."}
    assert user["role"] == "user"
    assert {name: asked[name] for name in ("temperature", "seed", "max_tokens")} == {"temperature": 0, "seed": 0, "max_tokens": 256}


async def test_distances_are_those_of_the_answers(world):
    says(world, INCUMBENT, "yes", size=0)
    says(world, CANDIDATE, "no", PROMPTS[:1], size=1)
    says(world, CANDIDATE, "perhaps", PROMPTS[1:], size=0.25)
    found = await measured(world)
    assert of(found, Contrast.VERSIONS).mean == pytest.approx(0.5, abs=1e-6)
    assert of(found, Contrast.NOISE).mean == 0
    assert [each.principle for each in beyond(found.readings, "0.3", Moment.BEFORE)] == ["refunds"]


async def test_an_incumbent_that_contradicts_itself_is_noise(world):
    world.doors.says[INCUMBENT, PROMPTS[0]] = ["yes", "no"]
    world.vectors.angles |= {"yes": EAST, "no": NORTH}
    assert of(await measured(world), Contrast.NOISE).mean == pytest.approx(1 / 3, abs=1e-6)


async def test_few_questions_are_under_way_at_a_time(world):
    world.ask_for({"name": "many", "prompts": [f"question {number}" for number in range(40)]})
    await measured(world)
    assert 1 < world.doors.busiest <= 4
    assert max(len(body["input"]) for body in world.vectors.asked) <= 16


async def test_equal_answers_are_embedded_once_and_with_what_was_asked_for(world):
    says(world, INCUMBENT, "yes")
    says(world, CANDIDATE, "yes")
    await measured(world)
    _, body = world.vectors.asked
    assert body == {"model": "minilm", "input": ["yes"], "encoding_format": "float"}
    assert world.vectors.tokens == {None}


async def test_the_token_of_the_embeddings_is_the_variable_that_is_named(world):
    world.policy(embeddings=world.task.policy.embeddings.model_copy(update={"token_env": "KEY"}))
    assert "promotion.drift.embeddings.tokenEnv: there is no environment variable KEY" in await problem(world)
    assert world.doors.asked == []
    world.environ["KEY"] = "secret"
    await measured(world)
    assert world.vectors.tokens == {"Bearer secret"}


async def test_a_candidate_that_falls_silent_is_unrelated_and_nothing_empty_is_embedded(world):
    says(world, CANDIDATE, "  \n")
    found = await measured(world)
    assert of(found, Contrast.VERSIONS).mean == 1
    assert "" not in [text for body in world.vectors.asked for text in body["input"]]
    kept = parse(DriftDocument, world.kept("000007-before.json"))
    assert {tuple(each.candidate) for each in kept.asked} == {()}


async def test_two_versions_that_say_nothing_show_nothing(world):
    for version in (INCUMBENT, CANDIDATE):
        says(world, version, "")
    told = await problem(world)
    assert "both versions say nothing" in told
    assert "refunds" in told
    assert "promotion.drift.maxTokens" in told
    assert world.store.list("") == []


async def test_an_answer_that_was_cut_off_counts_as_it_is(world):
    world.doors.faults = [completion(PROMPTS[0], "length")]
    assert of(await measured(world), Contrast.VERSIONS).prompts == 3


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(web.Response(status=503, headers={"x-graft-not-started": "1"}), id="a server that is starting"),
        pytest.param(web.Response(status=429), id="too many requests"),
        pytest.param(web.Response(status=404, text="The model `dsl-new` does not exist."), id="a replica that is loading it"),
        pytest.param("abort", id="a connection that breaks"),
        pytest.param(web.Response(text="{"), id="half an answer"),
        pytest.param(web.json_response({"choices": []}), id="an answer without an end"),
    ],
)
async def test_what_passes_is_asked_again(world, fault):
    world.doors.faults = [fault]
    assert of(await measured(world), Contrast.VERSIONS).mean == 0
    assert len(world.pauses) == 1
    assert sum(world.doors.of(INCUMBENT).values()) + sum(world.doors.of(CANDIDATE).values()) == 10


@pytest.mark.parametrize(
    ("broken", "told", "times"),
    [
        (web.Response(status=401), "the door of prod refuses the token of this check (401)", 1),
        (web.Response(status=403), "the door of prod refuses the token of this check (403)", 1),
        (web.Response(status=400), "of principle refunds (400); is it longer than the model's context", 1),
        (web.Response(status=302), "the server refuses prompt", 1),
        (web.Response(status=500), "in 6 attempts: status 500", ATTEMPTS),
        (web.Response(status=404, text="The model `dsl-old` does not exist."), "attempts: a server does not have it", ATTEMPTS),
        (web.Response(text="no json"), "attempts: what its server sent is no whole chat completion", ATTEMPTS),
    ],
)
async def test_a_version_that_does_not_answer_is_a_problem_and_no_distance(world, broken, told, times):
    world.doors.broken = broken
    assert told in await problem(world)
    assert times <= max(world.doors.of(INCUMBENT).values()) <= ATTEMPTS
    assert [body["input"] for body in world.vectors.asked] == [["refunds"]], "it was only tried"
    assert world.store.list("") == []


async def test_doors_that_are_away_are_a_problem(world):
    world.becomes(Moment.BEFORE, server=f"127.0.0.1:{unused_port()}")
    assert "did not answer prompt 1 of principle refunds in 6 attempts: its server could not be reached" in await problem(world)


async def test_a_token_that_is_not_there_is_a_problem(world):
    (world.folder / "token").unlink()
    assert "the token for the doors of prod could not be read" in await problem(world)


async def test_a_server_without_a_door_is_asked_without_a_token(world):
    world.becomes(Moment.BEFORE, token_file=None)
    await measured(world)
    assert world.doors.tokens == {None}


async def test_embeddings_that_are_away_for_a_moment_are_asked_again(world):
    world.vectors.faults = [web.Response(status=503), web.Response(status=429)]
    assert of(await measured(world), Contrast.VERSIONS).mean == 0
    assert len(world.pauses) == 2


def reply(data, model="minilm"):
    return web.json_response({"object": "list", "data": data, "model": model})


def vector(place, *numbers):
    return {"index": place, "embedding": list(numbers)}


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (web.Response(status=503), "promotion.drift.embeddings.url: no answer in 3 attempts (Status503)"),
        (web.Response(status=401), "promotion.drift.embeddings.tokenEnv: the service answered 401"),
        (web.Response(status=404), "promotion.drift.embeddings.url: the service answered 404"),
        (web.Response(status=400), "promotion.drift.embeddings.url: the service answered 400"),
        (web.Response(text="<html>"), "promotion.drift.embeddings.url: the answer is no JSON"),
        (web.json_response([]), "promotion.drift.embeddings.url: the reply is no list of embeddings"),
        (reply([{"index": 0, "embedding": "AACAPw=="}]), "promotion.drift.embeddings.url: the reply is no list of embeddings"),
        (reply([vector(0, 1.0, 0.0)]), "promotion.drift.embeddings.url: 3 texts were sent and 1 vectors came back"),
        (reply([vector(0, 1.0), vector(0, 1.0), vector(0, 1.0)]), "3 texts were sent and 1 vectors came back"),
        (reply([vector(place, 0.0, 0.0) for place in range(3)]), "a vector without a direction came back"),
        (reply([vector(0, 1.0), vector(1, 1.0, 1.0), vector(2, 1.0)]), "vectors of different lengths came back"),
        (reply([vector(place, 1.0) for place in range(3)], "other"), "embeddings.model: minilm was asked and 'other' answered"),
    ],
)
@pytest.mark.parametrize("moment", [Moment.TRIAL, Moment.BEFORE])
async def test_embeddings_that_are_none_are_a_problem_before_a_version_is_asked(world, broken, told, moment):
    world.ask_for(REFUNDS, TONE, TONE | {"name": "third"})
    world.becomes(moment)
    world.vectors.broken = broken
    assert told in await problem(world)
    assert (world.store.list(""), world.doors.asked) == ([], [])


async def test_embeddings_that_end_while_versions_are_asked_are_a_problem(world):
    world.vectors.only = 1
    assert "promotion.drift.embeddings.url: no answer in 3 attempts (Status503)" in await problem(world)
    assert (world.store.list(""), len(world.doors.asked)) == ([], 9)


async def test_a_trial_asks_no_version_and_keeps_nothing(world):
    world.becomes(Moment.TRIAL)
    found = await measured(world)
    assert (found.readings, found.document) == ([], None)
    assert found.principles_digest == f"sha256:{sha256(world.principles.read_bytes()).hexdigest()}"
    assert [body["input"] for body in world.vectors.asked] == [["refunds"]]
    assert (world.store.list(""), world.doors.asked) == ([], [])


async def test_a_trial_asks_the_store(world):
    world.becomes(Moment.TRIAL)
    told = await problem(world, open_store=lambda *_: Away(world.folder / "store", ("read", "history.json"), 99))
    assert told == "the collector's store did not do it in 3 attempts: history.json: away"


async def test_more_numbers_than_can_be_kept_are_a_problem(world, monkeypatch):
    monkeypatch.setattr("graft_serving.drift.embedding.MOST_NUMBERS", 17)
    assert "3 prompts of three vectors each come to 18 numbers, at most 17 are kept" in await problem(world)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "ConfigMap team-principles has no key principles.yaml that can be read (No such file"),
        (b"a: [", "ConfigMap team-principles: principles.yaml is no YAML (line "),
        (b"\xff\xfe\xff", "ConfigMap team-principles: principles.yaml is no YAML"),
        (b"a: &a [*a]", "principles.yaml is no plain YAML of strings, lists and mappings"),
        (b"a: 2026-01-01", "principles.yaml is no plain YAML of strings, lists and mappings"),
        (b"- a", "ConfigMap team-principles: principles.yaml: "),
        (b"principles: []", "principles.yaml: principles: List should have at least 1 item"),
        (b"principles: [{name: a, prompts: [b, c]}]", "principles[0].prompts: List should have at least 3 items"),
        (b"principles: [{name: a, prompts: [b, c, 4]}]", "principles[0].prompts[2]: must be a string; put a number in quotes"),
        (b"principles: [{name: a, prompts: [b, c, d], more: 1}]", "principles[0].more: Extra inputs are not permitted"),
        (b"principles: [{name: a, prompts: [b, c, b]}]", "two prompts of principle a are the same"),
        (b"principles: [{name: a, prompts: [b, c, d]}, {name: a, prompts: [b, c, d]}]", "every principle needs a name of its own"),
    ],
)
async def test_principles_that_cannot_be_read_are_a_problem_and_nobody_is_asked(world, content, told):
    world.principles.unlink()
    if content is not None:
        world.principles.write_bytes(content)
    assert told in await problem(world)
    assert world.doors.asked == []


async def test_a_few_lines_that_come_to_gigabytes_are_a_problem(world):
    lines = ["a0: &a0 [xxxxxxxxxx, xxxxxxxxxx]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    world.principles.write_text("\n".join(lines))
    assert "is larger than 1048576 bytes with its aliases written out" in await problem(world)


async def test_principles_are_those_whose_digest_is_named(world):
    digest = f"sha256:{sha256(world.principles.read_bytes()).hexdigest()}"
    world.policy(principles_digest=digest)
    assert (await measured(world)).principles_digest == digest
    world.ask_for(REFUNDS, TONE)
    told = await problem(world)
    assert told.startswith("ConfigMap team-principles: principles.yaml is not what promotion.drift.principlesDigest names; it has sha256:")


async def test_what_is_kept_holds_vectors_and_no_answers(world):
    says(world, INCUMBENT, "a secret answer")
    found = await measured(world)
    assert world.store.list("") == ["000007-before.json", "drift.html", "history.json"]
    content = world.store.read("000007-before.json")
    assert found.document == f"sha256:{sha256(content).hexdigest()}"
    everything = b"".join(world.store.read(path) for path in world.store.list(""))
    assert b"secret answer" not in everything
    assert not any(prompt.encode() in everything for prompt in PROMPTS)
    document = parse(DriftDocument, json.loads(content))
    assert document.readings == found.readings
    assert all(math.hypot(*each.incumbent) == pytest.approx(1, abs=1e-7) for each in document.asked)


async def test_an_attempt_takes_the_place_of_the_one_before_and_gates_follow_each_other(world):
    await measured(world)
    world.becomes(Moment.BEFORE, attempt=2)
    second = await measured(world)
    world.becomes(Moment.BEFORE, gate=8, adapter_uid="another")
    await measured(world)
    history = parse(DriftHistory, world.kept("history.json"))
    assert [(held.gate, held.moment) for held in history.moments] == [(7, Moment.BEFORE), (8, Moment.BEFORE)]
    assert history.moments[0].document == second.document
    assert [path for path in world.store.list("") if path.startswith("0")] == ["000007-before.json", "000008-before.json"]


async def test_the_history_forgets_its_oldest(world, monkeypatch):
    monkeypatch.setattr("graft_serving.drift.keeping.MOST_MOMENTS", 2)
    for gate in (1, 2, 3):
        world.becomes(Moment.BEFORE, gate=gate)
        await measured(world)
    assert [held["gate"] for held in world.kept("history.json")["moments"]] == [2, 3]


async def test_of_documents_the_newest_are_kept_and_the_history_names_no_other(world, monkeypatch):
    monkeypatch.setattr("graft_serving.drift.keeping.MOST_DOCUMENTS", 3)
    world.store.write("000001-before.json.bak", b"a user's own")
    for gate in (1, 2, 3):
        world.becomes(Moment.BEFORE, gate=gate, before=None)
        before = await measured(world)
        world.becomes(Moment.AFTER, before=before.document)
        await measured(world)
    kept = [path for path in world.store.list("") if path.endswith(("e.json", "r.json"))]
    assert kept == ["000002-after.json", "000003-after.json", "000003-before.json"]
    moments = parse(DriftHistory, world.kept("history.json")).moments
    assert [held.document is not None for held in moments] == [False] * 3 + [True] * 3
    assert all(held.readings for held in moments)
    assert world.store.read("000001-before.json.bak") == b"a user's own"


async def test_what_the_present_gate_has_measured_is_never_deleted(world, monkeypatch):
    monkeypatch.setattr("graft_serving.drift.keeping.MOST_DOCUMENTS", 1)
    before = await measured(world)
    world.becomes(Moment.AFTER, before=before.document)
    for _ in range(2):
        await measured(world)
    assert [path for path in world.store.list("") if path.startswith("0")] == ["000007-after.json", "000007-before.json"]
    world.becomes(Moment.BEFORE, gate=6, before=None)
    await measured(world)  # of a ledger that was restored from a backup
    assert "000007-before.json" in world.store.list("")


async def test_a_store_that_lets_nothing_be_deleted_is_no_problem(world, monkeypatch):
    monkeypatch.setattr("graft_serving.drift.keeping.MOST_DOCUMENTS", 1)
    store = Undeletable(world.folder / "store")
    for gate in (7, 8):
        world.becomes(Moment.BEFORE, gate=gate)
        await measured(world, open_store=lambda *_: store)
    assert "000007-before.json" in world.store.list("")


async def test_after_activation_both_are_held_against_their_answers_from_before(world):
    says(world, INCUMBENT, "yes", size=0)
    says(world, CANDIDATE, "certainly", size=0.1)
    before = await measured(world)
    world.becomes(Moment.AFTER, before=before.document)
    says(world, CANDIDATE, "no", size=1)
    after = await measured(world)
    assert of(after, Contrast.VERSIONS).mean == pytest.approx(1, abs=1e-6)
    assert of(after, Contrast.CANDIDATE).mean == pytest.approx(1 - math.cos(NORTH - angle(0.1)), abs=1e-6)
    assert of(after, Contrast.INCUMBENT).mean == 0
    assert {each.contrast for each in beyond(after.readings, "0.3", Moment.AFTER)} == {Contrast.VERSIONS, Contrast.CANDIDATE}
    assert [(held["moment"]) for held in world.kept("history.json")["moments"]] == ["Before", "After"]
    assert "000007-after.json" in world.store.list("")


def forget(world):
    world.store.delete("000007-before.json")


def forge(world):
    document = world.kept("000007-before.json")
    document["readings"] = []
    world.store.write("000007-before.json", json.dumps(document).encode())


def spoil(world):
    world.store.write("000007-before.json", b"{}")
    world.becomes(Moment.AFTER, before=None)


def other_principles(world):
    world.ask_for(REFUNDS, TONE)


def other_embeddings(world):
    world.vectors.model = "newer"
    world.policy(embeddings=world.task.policy.embeddings.model_copy(update={"model": "newer"}))


def other_vectors(world):
    world.vectors.dimensions = 3


def other_candidate(world):
    world.becomes(Moment.AFTER, before=None, adapter_uid="another")


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (forget, "000007-before.json is not in the store any more"),
        (forge, "000007-before.json in the store is not what was measured before activation"),
        (spoil, "000007-before.json in the collector's store is not what was written there"),
        (other_principles, "ConfigMap team-principles has changed since activation"),
        (other_embeddings, "before activation the embeddings were of minilm"),
        (other_vectors, "its vectors are not as long as before activation"),
        (other_candidate, "000007-before.json in the store is of another candidate"),
    ],
)
async def test_after_activation_only_like_is_held_against_like(world, happens, told):
    before = await measured(world)
    world.becomes(Moment.AFTER, before=before.document)
    happens(world)
    kept = world.store.read("history.json")
    assert told in await problem(world)
    assert world.store.read("history.json") == kept


class Away(FolderStore):
    """A store that does not do what `when` says, `times` in a row."""

    def __init__(self, root, when, times):
        super().__init__(root)
        self.when, self.times, self.done = when, times, []

    def read(self, path):
        self._asked("read", path)
        return super().read(path)

    def write(self, path, content, content_type=""):
        self._asked("write", path)
        super().write(path, content)

    def _asked(self, what, path):
        if (what, path) == self.when and self.times:
            self.times -= 1
            raise StoreAwayError(f"{path}: away")
        self.done.append((what, path))


class Undeletable(FolderStore):
    def delete(self, path):
        raise StoreAwayError(f"{path}: AccessDenied")


async def test_a_store_that_is_away_for_a_moment_is_asked_again(world):
    store = Away(world.folder / "store", ("write", "history.json"), 2)
    await measured(world, open_store=lambda *_: store)
    assert [path for what, path in store.done if what == "write"] == ["000007-before.json", "history.json", "drift.html"]


@pytest.mark.parametrize(
    ("when", "left"),
    [
        (("read", "history.json"), []),
        (("write", "000007-before.json"), []),
        (("write", "history.json"), ["000007-before.json"]),
        (("write", "drift.html"), ["000007-before.json", "history.json"]),
    ],
)
async def test_a_store_that_stays_away_is_a_problem_and_what_comes_later_is_not_written(world, when, left):
    told = await problem(world, open_store=lambda *_: Away(world.folder / "store", when, 99))
    assert told == f"the collector's store did not do it in 3 attempts: {when[1]}: away"
    assert world.store.list("") == left
    assert (await measured(world)).readings


async def test_a_store_that_cannot_be_opened_is_a_problem(world):
    def closed(*_):
        raise StoreAwayError("s3://b/c: no credentials")

    assert await problem(world, open_store=closed) == "the collector's store: s3://b/c: no credentials"


async def test_a_history_that_is_none_is_a_problem_before_anybody_is_asked(world):
    world.store.write("history.json", b"[]")
    assert "history.json in the collector's store is not what was written there; move it away" in await problem(world)
    assert world.doors.asked == []


async def test_what_is_not_done_in_time_is_a_problem(world, monkeypatch):
    monkeypatch.setattr("graft_serving.drift.check.seconds_of", lambda _: 0.05)
    world.ask_for({"name": "many", "prompts": [f"question {number}" for number in range(64)]})
    assert "it was not done in time for promotion.drift.deadline, 15m" in await problem(world)


async def test_a_bug_is_a_problem_too(world):
    def broken(*_):
        raise KeyError("content")

    assert await problem(world, open_store=broken) == "it ended with KeyError; the Job's log says where"


async def test_no_log_line_holds_content(world, caplog):
    caplog.set_level("DEBUG")
    says(world, CANDIDATE, "a secret answer")
    await measured(world)
    world.vectors.broken = web.Response(status=400, text="a secret answer is too long")
    await problem(world)
    said = caplog.text
    assert "secret" not in said
    assert not any(prompt in said for prompt in PROMPTS)
