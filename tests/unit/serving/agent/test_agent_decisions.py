"""Truth tables of what is pure: the next step, the verdict of a probe, readiness."""

from dataclasses import replace
from random import Random

import pytest

from graft_api.fleet import ATTEMPT_SECONDS, LoadFailure, ProbeReading, VersionState
from graft_api.routes import Version
from graft_serving.agent import probe
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.plan import Action, Pod, Progress, Step, fetches, plan
from graft_serving.agent.probe import judge
from graft_serving.agent.readiness import ready
from graft_serving.agent.vllm import Scored
from graft_serving.agent.wanted import Server, Wanted

NOW = 100.0


def item(name: str = "a", state: VersionState = VersionState.WAITING, *, fetched: bool = True) -> Progress:
    version = Version(name=name, domain="d", adapter="x", digest="sha256:" + "0" * 64, uri="s3://b/x", size_bytes=1)
    return Progress(version, state, fetched)


def failed(reason: LoadFailure, retry_at: float = 0.0, name: str = "a") -> Progress:
    return item(name).failed(reason, "", retry_at)


def pod(*desired: Progress, loaded: tuple[str, ...] = (), on_disk: tuple[str, ...] = (), serving: bool = True, **stray: str) -> Pod:
    paths = {name: f"/adapters/{name}" for name in loaded} | stray
    return Pod(desired, paths, serving, frozenset(on_disk), "/adapters", certain=True)


READY = VersionState.READY
NEXT = {
    "nothing is wanted": (pod(), None),
    "it is not fetched yet": (pod(item(fetched=False)), None),
    "it is fetched": (pod(item()), Action(Step.LOAD, "a")),
    "it is loaded": (pod(item(), loaded=("a",)), Action(Step.PROBE, "a")),
    "it is ready": (pod(item(state=READY), loaded=("a",)), None),
    "vLLM is away": (pod(item(), serving=False), None),
    "the most important comes first": (pod(item("b"), item("a")), Action(Step.LOAD, "b")),
    "one that waits for its files holds up no other": (pod(item("b", fetched=False), item("a")), Action(Step.LOAD, "a")),
    "one that failed for good holds up no other": (pod(failed(LoadFailure.NO_EFFECT, name="b"), item("a")), Action(Step.LOAD, "a")),
    "one whose retry is due": (pod(failed(LoadFailure.PROBE_FAILED, NOW), loaded=("a",)), Action(Step.PROBE, "a")),
    "one whose retry is not due": (pod(failed(LoadFailure.PROBE_FAILED, NOW + 1), loaded=("a",)), None),
    "what is not wanted frees its slot first": (pod(item(), loaded=("z",)), Action(Step.UNLOAD, "z")),
    "what failed for good leaves vLLM": (pod(failed(LoadFailure.WRONG_EFFECT), loaded=("a",)), Action(Step.UNLOAD, "a")),
    "our name from elsewhere leaves vLLM": (pod(item(), a="/tmp/a"), Action(Step.UNLOAD, "a")),
    "a stranger leaves vLLM": (pod(stranger="/tmp/x"), Action(Step.UNLOAD, "stranger")),
    "files of what is unloaded go": (pod(on_disk=("z",)), Action(Step.DELETE, "z")),
    "files of what is loaded stay": (pod(loaded=("z",), on_disk=("z",)), Action(Step.UNLOAD, "z")),
    "files of what is wanted stay": (pod(item(state=READY), loaded=("a",), on_disk=("a",)), None),
    "no files go while vLLM is away": (pod(on_disk=("z",), serving=False), None),
    "files go last": (pod(item(), on_disk=("a", "z")), Action(Step.LOAD, "a")),
}


@pytest.mark.parametrize(("given", "action"), NEXT.values(), ids=NEXT)
def test_the_next_step(given: Pod, action: Action | None) -> None:
    assert plan(given, frozenset(), NOW) == action


UNCERTAIN = {
    "what seems not to be wanted stays": (pod(loaded=("z",), on_disk=("z",)), None),
    "its files stay": (pod(on_disk=("z",)), None),
    "what failed by old routes stays": (pod(failed(LoadFailure.SIGNATURE_INVALID), loaded=("a",)), None),
    "a load must not push it out": (pod(item(), loaded=("z",)), None),
    "our name from elsewhere stays": (pod(item(), a="/tmp/a"), None),
    "what is loaded is proven": (pod(item(), loaded=("a", "z")), Action(Step.PROBE, "a")),
    "an empty vLLM is filled": (pod(item()), Action(Step.LOAD, "a")),
}


@pytest.mark.parametrize(("given", "action"), UNCERTAIN.values(), ids=UNCERTAIN)
def test_by_routes_that_may_be_old_nothing_is_taken_away(given: Pod, action: Action | None) -> None:
    assert plan(replace(given, certain=False), frozenset(), NOW) == action


def test_what_this_vllm_has_no_room_for_is_tried_by_the_next_one_only() -> None:
    notes = Wanted(Server(max_lora_rank=8), lambda: NOW, Random(1))  # noqa: S311
    notes.items = {"a": item(fetched=False)}
    notes.fail("a", VersionRefusedError(LoadFailure.SERVER_DIFFERS, ""))
    assert fetches(pod(notes.items["a"]), frozenset(), NOW + 1e9) == []
    notes.forgive("a")
    assert fetches(pod(notes.items["a"]), frozenset(), NOW) == ["a"]


def test_what_was_just_unloaded_is_left_alone() -> None:
    assert plan(pod(loaded=("z",), on_disk=("z",)), frozenset({"z"}), NOW) is None
    assert plan(pod(on_disk=("z",)), frozenset({"z"}), NOW) is None


FETCHED = {
    "what is not here": ([item(fetched=False)], ["a"]),
    "nothing that is here": ([item()], []),
    "in the routes' order": ([item("b", fetched=False), item("a", fetched=False)], ["b", "a"]),
    "again when its time has come": ([replace(failed(LoadFailure.STORE_UNAVAILABLE, NOW), fetched=False)], ["a"]),
    "not before": ([replace(failed(LoadFailure.STORE_UNAVAILABLE, NOW + 1), fetched=False)], []),
    "never what was refused": ([replace(failed(LoadFailure.DIGEST_MISMATCH), fetched=False)], []),
    "not what is under way": ([item("busy", fetched=False)], []),
}


@pytest.mark.parametrize(("desired", "names"), FETCHED.values(), ids=FETCHED)
def test_what_is_fetched(desired: list[Progress], names: list[str]) -> None:
    assert fetches(pod(*desired, serving=False), frozenset({"busy"}), NOW) == names


def reading(share: float, residual: float, **changes: float) -> ProbeReading:
    values = {"noise": 0.0, "effect": 0.64, "base_deviation": 0.0103} | changes
    return ProbeReading(share=share, residual=residual, tokens=40, **values)


# As measured with vLLM 0.32 on CPU in bfloat16: see the table in the module.
VERDICTS = {
    "the adapter itself": (reading(0.990, 0.023), None),
    "a fifth less alpha, near the bound": (reading(0.913, 0.094), None),
    "B = 0": (reading(0.0, 0.0), LoadFailure.NO_EFFECT),
    "B = 0 with noise": (reading(0.02, 0.05, noise=0.02), LoadFailure.NO_EFFECT),
    "half of alpha": (reading(0.666, 0.142), LoadFailure.WRONG_EFFECT),
    "twice alpha": (reading(0.927, 1.468), LoadFailure.WRONG_EFFECT),
    "attention only": (reading(0.558, 0.401), LoadFailure.WRONG_EFFECT),
    "MLP only": (reading(0.559, 0.600), LoadFailure.WRONG_EFFECT),
    "k, o and up only": (reading(0.134, 0.259), LoadFailure.WRONG_EFFECT),
    "q, v, gate and down only": (reading(0.819, 0.683), LoadFailure.WRONG_EFFECT),
    "without q_proj": (reading(0.840, 0.333), LoadFailure.WRONG_EFFECT),
    "without down_proj": (reading(0.665, 0.362), LoadFailure.WRONG_EFFECT),
    "one layer of three missing": (reading(0.971, 0.144), LoadFailure.WRONG_EFFECT),
    "all layers but the middle one missing": (reading(-0.117, 0.245), LoadFailure.WRONG_EFFECT),
    "another adapter, the other way": (reading(-1.0, 0.1), LoadFailure.WRONG_EFFECT),
    "a base rounded to 4 bits, the adapter itself": (reading(0.95, 0.2, base_deviation=0.1), None),
    "another base": (reading(1.0, 0.0, base_deviation=9.6), LoadFailure.BASE_DIFFERS),
    "references that show nothing": (reading(1.0, 0.0, effect=0.0), LoadFailure.NO_EFFECT),
    "references below what precision does": (reading(1.0, 0.1, effect=0.02), LoadFailure.NO_EFFECT),
    "a weak effect, clear on so many tokens": (reading(1.0, 0.2, effect=0.1), None),
    "a base that does not repeat itself": (reading(0.75, 0.39, noise=0.578, base_deviation=0.29), LoadFailure.PROBE_FAILED),
}


@pytest.mark.parametrize(("found", "reason"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict(found: ProbeReading, reason: LoadFailure | None) -> None:
    if reason is None:
        judge(found)
        return
    with pytest.raises(VersionRefusedError) as refused:
        judge(found)
    assert refused.value.reason is reason


HALF_AN_ADAPTER = ["B = 0", "half of alpha", "attention only", "MLP only", "k, o and up only", "q, v, gate and down only"]


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.03, 0.1, 0.2])
@pytest.mark.parametrize("effect", [0.03, 0.1, 0.3, 0.64, 2.0])
@pytest.mark.parametrize("case", HALF_AN_ADAPTER)
def test_half_an_adapter_is_refused_however_weak_it_is_and_however_coarse_the_base(case: str, effect: float, deviation: float) -> None:
    found, _ = VERDICTS[case]
    with pytest.raises(VersionRefusedError):
        judge(found.model_copy(update={"effect": effect, "base_deviation": deviation, "tokens": 96}))


def test_a_reading_says_what_its_definition_says() -> None:
    scored = tuple(Scored((1,), token) for token in range(3))
    wanted = probe.Reference(scored, (-1.0, -2.0, -3.0), (-2.0, -2.0, -1.0))  # d_ref = (-1, 0, 2)
    found = probe.reading(wanted, [-1.1, -2.0, -3.0], [-0.9, -2.0, -3.0], [-1.5, -1.0, -2.0])  # d = (-0.5, 1, 1)
    assert found.share == pytest.approx(0.5)
    assert found.residual == pytest.approx(1 / 5**0.5)
    assert found.effect == pytest.approx((5 / 3) ** 0.5)
    assert found.noise == pytest.approx((0.04 / 3) ** 0.5)
    assert found.base_deviation == pytest.approx(0.0)


GATES = {
    "vLLM is down": (False, {"a"}, [item(state=READY)], 0.0, False),
    "there are no routes": (True, set(), [], None, False),
    "nothing is routed": (True, set(), [], 0.0, True),
    "what is routed is ready": (True, {"a"}, [item(state=READY)], 0.0, True),
    "what is routed is under way": (True, {"a"}, [item(state=VersionState.FETCHING)], 1.0, False),
    "what is routed failed for good": (True, {"a"}, [failed(LoadFailure.NO_EFFECT)], 1.0, True),
    "what is routed failed and is tried again": (True, {"a"}, [failed(LoadFailure.STORE_UNAVAILABLE, NOW)], 1.0, True),
    "a candidate is under way": (True, {"a"}, [item(state=READY), item("candidate")], 1.0, True),
    "the store is too slow": (True, {"a"}, [item(state=VersionState.FETCHING)], ATTEMPT_SECONDS, True),
    "a routed version is beyond the slots": (True, {"a", "z"}, [item(state=READY)], 0.0, True),
}


@pytest.mark.parametrize(("serving", "routed", "versions", "waited", "expected"), GATES.values(), ids=GATES)
def test_readiness(*, serving: bool, routed: set[str], versions: list[Progress], waited: float | None, expected: bool) -> None:
    assert ready(serving, routed, versions, waited) is expected
