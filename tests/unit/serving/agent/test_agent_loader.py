"""The loop against a real HTTP server that answers as vLLM does."""

import asyncio
import contextlib
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import adapter_world as world
import aiohttp
import pytest
from fake_vllm import FakeVllm
from file_store import FileStore

from graft_api.fleet import LoadFailure, VersionState
from graft_api.routes import Version
from graft_serving.agent import loader as loading
from graft_serving.agent import readiness, wanted
from graft_serving.agent.cache import Cache
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.fetcher import Fetcher
from graft_serving.agent.loader import Loader, Surroundings
from graft_serving.agent.state import Board
from graft_serving.agent.store import Store
from graft_serving.agent.vllm import Vllm, VllmAwayError
from graft_serving.agent.wanted import Server


class Pod:
    """A server pod: vLLM, a cache, and the agent's loop, which can be started again as a new process is."""

    def __init__(self, root: Path, vllm: FakeVllm, session: aiohttp.ClientSession) -> None:
        self.vllm, self.root, self._session = vllm, root, session
        self.open_store: Callable[[str], Store] = FileStore
        self.watched = True
        self.server = Server()
        self.cache_bytes = 10**9
        self.new()

    def new(self) -> None:
        cache = Cache(self.root, self.cache_bytes)
        fetcher = Fetcher(cache, lambda uri: self.open_store(uri), time.monotonic, lambda _: None)  # noqa: PLW0108 - replaced by tests
        self.board = Board("boot", lambda: None)
        vllm = Vllm(self._session, self.vllm.url)
        random = Random(1)  # noqa: S311
        self.loader = Loader(Surroundings(vllm, cache, fetcher, self.board, self.server, lambda: self.watched, time.monotonic, random))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.loader.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def state(self, version: Version) -> VersionState:
        return next(item.state for item in self.board.picture.versions if item.name == version.name)

    def reason(self, version: Version) -> LoadFailure | None:
        return next(item.reason for item in self.board.picture.versions if item.name == version.name)

    def reported(self) -> dict[str, VersionState]:
        return {version.name: version.state for version in self.board.report(1).versions}

    async def settled(self, *versions: Version) -> None:
        await self.until(lambda: all(self.state(version) in {VersionState.READY, VersionState.FAILED} for version in versions))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(wanted, "FIRST_RETRY", 0.02)


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[Pod]:
    async with FakeVllm().running() as vllm, aiohttp.ClientSession() as session:
        yield Pod(tmp_path / "adapters", vllm, session)


def another(package: world.Package, number: int, domain: str = "dsl") -> Version:
    made = world.Package(package.folder.with_name(f"package-{number}"), package.signer, domain)
    made.write("README.md", f"# number {number}\n".encode())
    return made.seal()


async def test_what_is_routed_is_loaded_proven_and_served(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    assert not pod.loader.ready(), "one attempt comes first"
    assert not pod.board.opened
    async with pod.running():
        await pod.settled(version)
        assert pod.state(version) is VersionState.READY
        assert pod.loader.ready()
        assert pod.board.opened
        assert (await pod.board.state(None, 0)).versions == [version.name]
        assert pod.vllm.loaded == {version.name: str(pod.root / version.name)}
        report = pod.board.report(1).versions[0]
        assert report.probe is not None
        assert report.probe.share == pytest.approx(1.0)
        assert {"fetch", "verify", "load", "probe"} <= set(report.seconds)


BAD = {
    "B = 0": (0.0, LoadFailure.NO_EFFECT),
    "alpha halved": (0.5, LoadFailure.WRONG_EFFECT),
    "alpha doubled": (2.0, LoadFailure.WRONG_EFFECT),
    "the other way round": (-1.0, LoadFailure.WRONG_EFFECT),
}


@pytest.mark.parametrize(("share", "reason"), BAD.values(), ids=BAD)
async def test_an_adapter_that_vllm_takes_but_that_does_something_else_never_serves(
    pod: Pod, package: world.Package, share: float, reason: LoadFailure
) -> None:
    version, good = package.seal(), another(package, 2, "sql")
    pod.vllm.share[version.name] = share
    seen: set[str] = set()
    pod.loader.apply(world.routes([version, good], [package.signer.public], routed=[version.name, good.name]))
    async with pod.running():
        await pod.until(lambda: bool(seen.update(pod.board.picture.ready)) or pod.state(good) is VersionState.READY)
        await pod.until(lambda: version.name not in pod.vllm.loaded and pod.state(version) is VersionState.FAILED)
        assert pod.reason(version) is reason
        assert pod.loader.ready(), "its attempt was made"
        await asyncio.sleep(0.1)
    assert version.name not in seen
    assert pod.vllm.names("load").count(version.name) == 1, "not tried again"


async def test_another_base_model_under_the_same_digest_is_seen(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.vllm.base_shift = -0.7
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
        assert pod.reason(version) is LoadFailure.BASE_DIFFERS


async def test_what_vllm_refuses_says_so_in_its_words(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.vllm.refused.add(version.name)
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
    assert pod.reason(version) is LoadFailure.LOAD_REFUSED
    assert "add_lora" in pod.board.picture.versions[0].message


async def test_a_tampered_package_never_reaches_vllm_and_no_other_is_held_up(pod: Pod, package: world.Package) -> None:
    good, bad = another(package, 2), package.seal()
    (package.folder / "adapter_model.safetensors").write_bytes(b"x" * 10)
    pod.loader.apply(world.routes([bad, good], [package.signer.public], routed=[bad.name, good.name]))
    async with pod.running():
        await pod.settled(bad, good)
        assert (pod.reason(bad), pod.state(good)) == (LoadFailure.DIGEST_MISMATCH, VersionState.READY)
    assert pod.vllm.names("load") == [good.name]
    assert not (pod.root / bad.name).exists()


async def test_after_a_restart_of_vllm_everything_is_loaded_again_from_the_disk(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.settled(version)
        shutil.rmtree(package.folder)  # the store is gone
        pod.vllm.up = False
        pod.vllm.restart()
        await pod.until(lambda: pod.board.picture.server == "Down")
        assert (await pod.board.state(None, 0)).serving is False
        assert (await pod.board.state(None, 0)).versions == []
        assert not pod.loader.ready()
        pod.vllm.up = True
        await pod.until(pod.loader.ready)
        assert pod.state(version) is VersionState.READY
        assert pod.board.picture.server_starts == 2


def hold_the_store(pod: Pod, *names: str) -> threading.Event:
    """Return what lets go of the store: until it is set, nothing arrives, or nothing of these packages."""
    gate = threading.Event()

    def open_store(uri: str) -> Store:
        if not names or uri.rpartition("/")[2] in names:
            gate.wait(5)
        return FileStore(uri)

    pod.open_store = open_store
    return gate


@pytest.mark.parametrize("seen_down", [True, False], ids=["it was seen to be down", "it was back by the next look"])
async def test_after_a_restart_of_vllm_gateways_hear_nothing_of_serving_until_what_is_routed_was_tried(
    pod: Pod, package: world.Package, monkeypatch: pytest.MonkeyPatch, *, seen_down: bool
) -> None:
    version, gate, loading_began = package.seal(), asyncio.Event(), asyncio.Event()
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    load = Vllm.load

    async def slow(vllm: Vllm, name: str, path: str) -> None:
        loading_began.set()
        await gate.wait()
        await load(vllm, name, path)

    async with pod.running():
        await pod.settled(version)
        assert (await pod.board.state(None, 0)).serving is True
        monkeypatch.setattr(Vllm, "load", slow)
        pod.vllm.up = not seen_down
        pod.vllm.restart()
        if seen_down:
            await pod.until(lambda: pod.board.picture.server == "Down")
            pod.vllm.up = True
        await loading_began.wait()
        assert pod.board.picture.server == "Serving", "as vLLM does: with the base alone"
        said = await pod.board.state(None, 0)
        assert (said.serving, said.versions) == (False, [])
        gate.set()
        await pod.until(pod.loader.ready)
        said = await pod.board.state(None, 0)
        assert (said.serving, said.versions) == (True, [version.name])


async def test_what_was_routed_while_vllm_was_away_is_tried_before_gateways_hear_of_serving(pod: Pod, package: world.Package) -> None:
    old, new = package.seal(), another(package, 2)
    pod.loader.apply(world.routes([old], [package.signer.public], routed=[old.name]))
    async with pod.running():
        await pod.settled(old)
        pod.vllm.up = False
        pod.vllm.restart()
        await pod.until(lambda: pod.board.picture.server == "Down")
        gate = hold_the_store(pod)
        pod.loader.apply(world.routes([new], [package.signer.public], routed=[new.name], revision=2))
        pod.vllm.up = True
        await pod.until(lambda: pod.board.picture.server == "Serving")
        assert (await pod.board.state(None, 0)).serving is False
        gate.set()
        await pod.until(lambda: pod.board.picture.attempted)
        assert (await pod.board.state(None, 0)).versions == [new.name]


async def test_after_a_restart_of_vllm_the_attempt_is_bounded(pod: Pod, package: world.Package, monkeypatch: pytest.MonkeyPatch) -> None:
    version, new = package.seal(), another(package, 2, "sql")
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.settled(version)
        gate = hold_the_store(pod)
        pod.loader.apply(world.routes([version, new], [package.signer.public], routed=[version.name, new.name], revision=2))
        assert (await pod.board.state(None, 0)).serving is True, "what is routed later interrupts nobody"
        pod.vllm.restart()
        await pod.until(lambda: not pod.board.picture.attempted)
        await pod.until(lambda: pod.state(version) is VersionState.READY)
        assert (await pod.board.state(None, 0)).serving is False
        monkeypatch.setattr(readiness, "ATTEMPT_SECONDS", 0.0)
        await pod.until(lambda: pod.board.picture.attempted)
        assert (await pod.board.state(None, 0)).serving is True
        gate.set()
        await pod.settled(new)


async def test_an_agent_that_was_restarted_beside_a_vllm_that_serves_says_nothing_before_its_attempt(
    pod: Pod, package: world.Package
) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.settled(version)
    pod.new()
    said: list[bool] = []
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.until(lambda: bool(said.append(pod.board.picture.attempted)) or pod.board.opened)
        assert (await pod.board.state(None, 0)).serving is True
    assert not any(said[:-1])


async def test_an_agent_that_was_restarted_beside_a_dead_vllm_says_so(pod: Pod) -> None:
    pod.vllm.up = False
    async with pod.running():
        await pod.until(lambda: pod.board.opened)
        assert (await pod.board.state(None, 0)).serving is False


async def test_without_routes_of_the_api_server_nothing_is_unloaded(
    pod: Pod, package: world.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = package.seal(), another(package, 2)
    pod.loader.apply(world.routes([new], [package.signer.public], routed=[new.name]))
    async with pod.running():
        await pod.settled(new)
    pod.new()
    pod.watched = False
    async with pod.running():
        await pod.until(lambda: pod.board.picture.server == "Serving")
        pod.loader.apply(world.routes([old], [package.signer.public], routed=[old.name]))  # the mounted file's
        await pod.until(lambda: pod.board.picture.versions[0].fetched)
        await asyncio.sleep(0.1)
        assert set(pod.vllm.loaded) == {new.name}
        assert (pod.root / new.name).is_dir()
        pod.watched = True
        pod.loader.apply(world.routes([new], [package.signer.public], routed=[new.name], revision=2))
        await pod.settled(new)
        assert not pod.vllm.names("unload")
        pod.watched = False
        monkeypatch.setattr(loading, "STALE_SECONDS", 0.0)
        pod.loader.apply(world.routes([], [package.signer.public], revision=3))
        await pod.until(lambda: not pod.vllm.loaded)


async def test_a_load_pushes_out_what_was_unloaded_and_no_quiet_domain(pod: Pod, package: world.Package) -> None:
    quiet, old, new = package.seal(), another(package, 2, "sql"), another(package, 3, "sql")
    pod.vllm.room = 2
    pod.loader.apply(world.routes([quiet], [package.signer.public], max_loras=2))
    async with pod.running():
        await pod.settled(quiet)  # first: of two that are fetched side by side, either may be loaded before the other
        pod.loader.apply(world.routes([quiet, old], [package.signer.public], max_loras=2, revision=2))
        await pod.settled(quiet, old)
        assert pod.vllm.weights == [quiet.name, old.name]
        pod.loader.apply(world.routes([quiet, new], [package.signer.public], max_loras=2, revision=3))
        await pod.settled(quiet, new)
    assert set(pod.vllm.weights) == {quiet.name, new.name}
    assert not pod.vllm.read_again


async def test_a_probe_that_vllm_will_never_take_is_final(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.vllm.longest = 4
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.settled(version)
        await pod.until(lambda: not pod.vllm.loaded)
        await asyncio.sleep(0.1)
    assert pod.reason(version) is LoadFailure.INVALID_ARTIFACT
    assert "5 tokens" in pod.board.picture.versions[0].message
    assert "--max-model-len" in pod.board.picture.versions[0].message
    assert pod.vllm.names("load") == [version.name], "not tried again"


async def test_a_restart_between_two_looks_is_seen_by_what_is_lost(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.settled(version)
        pod.vllm.restart()
        await pod.until(lambda: pod.vllm.names("load").count(version.name) == 2 and pod.state(version) is VersionState.READY)


async def test_what_is_not_routed_any_more_is_unloaded_and_then_its_files_go(
    pod: Pod, package: world.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "UNLOADED_SECONDS", 0.2)
    old, new = package.seal(), another(package, 2)
    pod.loader.apply(world.routes([old], [package.signer.public]))
    async with pod.running():
        await pod.settled(old)
        pod.loader.apply(world.routes([new], [package.signer.public], revision=2))
        await pod.until(lambda: old.name not in pod.vllm.loaded)
        assert (pod.root / old.name).is_dir(), "files last"
        await pod.until(lambda: not (pod.root / old.name).exists())
        await pod.settled(new)


async def test_no_more_versions_than_slots_in_the_routes_order(pod: Pod, package: world.Package) -> None:
    versions = [another(package, number) for number in range(3)]
    pod.loader.apply(world.routes(versions, [package.signer.public], max_loras=2))
    async with pod.running():
        await pod.settled(*versions[:2])
        assert set(pod.vllm.loaded) == {version.name for version in versions[:2]}


async def test_names_of_an_earlier_agent_are_proven_anew_and_strangers_are_unloaded(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
    pod.vllm.loaded["stranger"] = "/tmp/stranger"
    pod.new()
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
        await pod.until(lambda: set(pod.vllm.loaded) == {version.name})
    assert pod.vllm.names("load") == [version.name], "it stayed loaded"


async def test_our_name_at_another_path_is_not_ours(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.vllm.loaded[version.name] = "/tmp/elsewhere"
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
    assert pod.vllm.loaded[version.name] == str(pod.root / version.name)


async def test_a_store_that_is_away_is_tried_again_and_has_its_attempt_counted(pod: Pod, package: world.Package) -> None:
    version, away = package.seal(), True

    def open_store(uri: str) -> Store:
        if away:
            raise VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, "away")
        return FileStore(uri)

    pod.open_store = open_store
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name]))
    async with pod.running():
        await pod.until(pod.loader.ready)
        assert pod.reason(version) is LoadFailure.STORE_UNAVAILABLE
        away = False
        await pod.until(lambda: pod.state(version) is VersionState.READY)


async def test_a_key_that_is_withdrawn_takes_its_adapters_away(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
        pod.loader.apply(world.routes([version], [world.Signer().public], revision=2))
        await pod.until(lambda: pod.reason(version) is LoadFailure.SIGNATURE_INVALID and not pod.vllm.loaded)


@pytest.mark.parametrize("new_keys", [True, False], ids=["a key that is trusted now", "an address that is right now"])
async def test_a_verdict_by_old_routes_does_not_stay(pod: Pod, package: world.Package, *, new_keys: bool) -> None:
    version, opened = package.seal(), threading.Event()
    wrong = version.model_copy(update={"uri": f"{version.uri}-moved"})
    gate = hold_the_store(pod)
    held = pod.open_store

    def open_store(uri: str) -> Store:
        opened.set()
        return held(uri)

    pod.open_store = open_store
    before = world.routes([version], [world.Signer().public]) if new_keys else world.routes([wrong], [package.signer.public])
    pod.loader.apply(before)
    async with pod.running():
        await pod.until(opened.is_set)
        pod.loader.apply(world.routes([version], [package.signer.public], revision=2))
        gate.set()
        seen: set[LoadFailure | None] = set()
        await pod.until(lambda: bool(seen.add(pod.reason(version))) or pod.state(version) in {VersionState.READY, VersionState.FAILED})
        assert pod.state(version) is VersionState.READY
    assert seen == {None}, "it was never said to be refused"


async def test_no_more_versions_than_the_vllm_that_runs_has_slots(pod: Pod, package: world.Package) -> None:
    versions = [another(package, number) for number in range(4)]
    pod.server = Server(max_loras=2)
    pod.new()
    pod.loader.apply(world.routes(versions, [package.signer.public], routed=[versions[0].name], max_loras=3))
    async with pod.running():
        await pod.settled(*versions[:3])
        await asyncio.sleep(0.1)
        assert set(pod.vllm.loaded) == {version.name for version in versions[:2]}
        assert pod.loader.ready()
        said = {version.name: version for version in pod.board.report(1).versions}
        assert set(said) == {version.name for version in versions[:3]}, "the routes have no slot for the fourth"
        assert (said[versions[2].name].state, said[versions[2].name].reason) == (VersionState.FAILED, LoadFailure.SERVER_DIFFERS)
        assert "--max-loras 2" in said[versions[2].name].message
        assert "3 slots" in said[versions[2].name].message
        pod.loader.apply(world.routes([versions[2]], [package.signer.public], revision=2, max_loras=3))
        await pod.until(lambda: pod.state(versions[2]) is VersionState.READY)


async def test_what_goes_beyond_the_slots_is_unloaded_before_it_is_refused(pod: Pod, package: world.Package) -> None:
    old, new = package.seal(), another(package, 2)
    pod.server = Server(max_loras=1)
    pod.new()
    pod.loader.apply(world.routes([old], [package.signer.public]))
    async with pod.running():
        await pod.settled(old)
        pod.loader.apply(world.routes([new, old], [package.signer.public], revision=2))
        assert pod.reported()[old.name] is VersionState.UNLOADING
        await pod.until(lambda: pod.reported() == {new.name: VersionState.READY, old.name: VersionState.FAILED})


async def test_a_rank_beyond_the_vllm_that_runs_is_not_tried_on_it(pod: Pod, package: world.Package) -> None:
    version, opened = package.seal(), 0
    pod.server = Server(max_lora_rank=2)
    pod.new()

    def open_store(uri: str) -> Store:
        nonlocal opened
        opened += 1
        return FileStore(uri)

    pod.open_store = open_store
    pod.loader.apply(world.routes([version], [package.signer.public], routed=[version.name], max_lora_rank=16))
    async with pod.running():
        await pod.settled(version)
        await asyncio.sleep(0.1)
    assert pod.reason(version) is LoadFailure.SERVER_DIFFERS
    assert "rank 4" in pod.board.picture.versions[0].message
    assert "--max-lora-rank 2" in pod.board.picture.versions[0].message
    assert (pod.vllm.names("load"), opened) == ([], 1), "200 MB are not fetched every minute for nothing"


async def test_what_is_not_wanted_is_reported_until_vllm_has_let_go_of_it(
    pod: Pod, package: world.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "UNLOADED_SECONDS", 0.1)
    old, unload = package.seal(), Vllm.unload

    async def fail(_: Vllm, name: str) -> None:
        pod.vllm.calls.append(("tried", name))
        raise VllmAwayError("status 500")

    pod.loader.apply(world.routes([old], [package.signer.public]))
    async with pod.running():
        await pod.settled(old)
        monkeypatch.setattr(Vllm, "unload", fail)
        pod.loader.apply(world.routes([], [package.signer.public], revision=2))
        assert pod.reported() == {old.name: VersionState.UNLOADING}, "at once, and with the revision that drops it"
        assert (await pod.board.state(None, 0)).versions == []
        await pod.until(lambda: len(pod.vllm.names("tried")) > 1)
        assert pod.reported() == {old.name: VersionState.UNLOADING}
        monkeypatch.setattr(Vllm, "unload", unload)
        await pod.until(lambda: pod.reported() == {})
        assert not pod.vllm.loaded


async def test_an_agent_that_was_restarted_reports_what_vllm_may_have_before_its_first_look(pod: Pod, package: world.Package) -> None:
    old = package.seal()
    pod.loader.apply(world.routes([old], [package.signer.public]))
    async with pod.running():
        await pod.settled(old)
    pod.new()
    pod.loader.apply(world.routes([], [package.signer.public], revision=2))
    assert pod.reported() == {old.name: VersionState.UNLOADING}
    async with pod.running():
        await pod.until(lambda: pod.reported() == {})
        assert not pod.vllm.loaded


async def test_a_version_that_is_dropped_while_vllm_loads_it_is_reported(
    pod: Pod, package: world.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, loading_began, gate, load = package.seal(), asyncio.Event(), asyncio.Event(), Vllm.load

    async def slow(vllm: Vllm, name: str, path: str) -> None:
        loading_began.set()
        await gate.wait()
        await load(vllm, name, path)

    monkeypatch.setattr(Vllm, "load", slow)
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await loading_began.wait()
        pod.loader.apply(world.routes([], [package.signer.public], revision=2))
        assert pod.reported() == {version.name: VersionState.UNLOADING}
        gate.set()
        await pod.until(lambda: pod.reported() == {})
        assert pod.vllm.names("unload") == [version.name]


async def test_a_fetch_that_waited_takes_no_room_from_what_was_loaded_meanwhile(pod: Pod, package: world.Package) -> None:
    loaded, waits = package.seal(), another(package, 2, "sql")
    pod.cache_bytes = loaded.size_bytes + waits.size_bytes // 2
    pod.new()
    gate = hold_the_store(pod, "package-2")
    pod.loader.apply(world.routes([waits], [package.signer.public]))
    async with pod.running():
        await pod.until(lambda: pod.state(waits) is VersionState.FETCHING)
        pod.loader.apply(world.routes([waits, loaded], [package.signer.public], revision=2))
        await pod.until(lambda: pod.state(loaded) is VersionState.READY)
        gate.set()
        await pod.settled(waits)
        assert pod.reason(waits) is LoadFailure.TOO_LARGE
        assert (pod.root / loaded.name).is_dir(), "vLLM reads it again whenever it likes"


async def test_a_package_without_references_is_ready_but_weak(pod: Pod, package: world.Package) -> None:
    (package.folder / "probes.json").unlink()
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
    assert pod.board.report(1).versions[0].weak


async def test_leftovers_of_a_crash_are_removed_and_a_damaged_folder_is_fetched_again(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    (pod.root / ".fetching-x").mkdir(parents=True)
    shutil.copytree(package.folder, pod.root / version.name)
    (pod.root / version.name / "adapter_config.json").write_text(json.dumps({}))
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
    assert pod.state(version) is VersionState.READY
    assert [entry.name for entry in pod.root.iterdir()] == [version.name]


async def test_a_draining_pod_serves_nothing_new_but_keeps_what_is_loaded(pod: Pod, package: world.Package) -> None:
    version = package.seal()
    pod.loader.apply(world.routes([version], [package.signer.public]))
    async with pod.running():
        await pod.settled(version)
        waiting = asyncio.create_task(pod.board.state(pod.board.generation, 5))
        await asyncio.sleep(0)
        pod.loader.drain()
        assert (await waiting).serving is False
        assert version.name in pod.vllm.loaded
        assert pod.board.report(1).server == "Draining"
