"""Three gateways over a mock model server, one domain, and the routes that they follow."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import graft
from api_server import RoutesServer
from measure import await_event
from programs import program
from systems import API_KEY, MODELS, VERSIONS, Cores, Launch, Running, System, mock, started

from graft_api.dataplane import ROUTES_KEY
from graft_api.routes import Arm, HardLimits, Route, Routes, TripWire

REPLICAS = 3
DOMAIN = MODELS[0]
OLD, NEW = VERSIONS[DOMAIN]
HELD_BACK = 500
"""In ten thousand."""
QUIET_SECONDS = 0.5
"""A gateway that has sent nothing to a version for so long, at 50 requests a second and more, does not send anything there any more."""
PATIENCE = 90.0


@dataclass(frozen=True)
class Asked:
    """One gateway's requests for the new version, as the model server saw them. Nanoseconds since 1970."""

    requests: int
    last_started: int
    bad_started: Sequence[int]
    bad_answered: Sequence[int]


NOTHING = Asked(0, 0, (), ())


class Fleet:
    """The gateways, and what may be done to them."""

    def __init__(self, upstream: Running, api: RoutesServer) -> None:
        self.gateways: list[Running] = []
        self.upstream = upstream
        self.api = api
        self._revision = 1

    def activate(self, limits: HardLimits) -> int:
        """Route to the new version, but for what is held back. Returns when, in nanoseconds since 1970."""
        return self._write(limits)

    def roll_back(self) -> int:
        """Route everything to the old version. Returns when that was decided."""
        return self._write(None)

    def settle(self, rates: Mapping[str, float]) -> None:
        """Have everything on the old version again, and forget what was seen. From then on versions fail at these rates."""
        self.roll_back()
        self.until_stopped()
        self.trouble(rates)

    def trouble(self, rates: Mapping[str, float]) -> None:
        """Have the model server fail so many of a version's requests, and forget what it saw."""
        self._call("PUT", json.dumps({"rates": dict(rates)}).encode())

    def asked(self) -> list[Asked]:
        """Return what each gateway has asked the new version."""
        seen = json.loads(self._call("GET"))
        found = (seen.get(caller(number), {}).get(NEW) for number in range(REPLICAS))
        return [Asked(**one) if one else NOTHING for one in found]

    def until_asked(self, count: int) -> None:
        """Wait until every gateway has sent the new version so many requests."""
        self._until(lambda asked: all(one.requests >= count for one in asked))

    def until_stopped(self) -> list[Asked]:
        """Wait until no gateway sends the new version anything any more. Returns what they had sent."""
        return self._until(lambda asked: time.time_ns() - max(one.last_started for one in asked) > QUIET_SECONDS * 1e9)

    def _until(self, true: Callable[[list[Asked]], bool]) -> list[Asked]:
        deadline = time.monotonic() + PATIENCE
        while not true(asked := self.asked()):
            if time.monotonic() > deadline:
                raise SystemExit(f"the gateways have not come to it within {PATIENCE:.0f} s: {[one.requests for one in asked]} requests")
            time.sleep(0.02)
        return asked

    def _write(self, limits: HardLimits | None) -> int:
        self._revision += 1
        return self.api.write(routes(self._revision, limits))

    def _call(self, method: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.upstream.url}/bench/trouble", body, method=method)  # noqa: S310 - http to ourselves
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - the same
            found: bytes = answer.read()
        return found


@contextmanager
def fleet() -> Iterator[Fleet]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-")))
        upstream = stack.enter_context(mock(folder, json.dumps(graft.agent_state().to_json()), Cores()))
        made = Fleet(upstream, stack.enter_context(RoutesServer(routes(1, None))))
        made.trouble({})
        port = int(upstream.url.rsplit(":", 1)[1])
        for number in range(REPLICAS):
            (folder / caller(number)).mkdir()
            made.gateways.append(stack.enter_context(started(gateway(number, made.api.url), folder / caller(number), port, Cores())))
        yield made


def caller(number: int) -> str:
    """The gateway's token for doors, by which the model server tells it from the others."""
    return f"gateway-{number}"


def gateway(number: int, api_url: str) -> System:
    def launch(folder: Path, port: int, mock_port: int) -> Launch:
        plain = graft.launch(folder, port, mock_port)
        (folder / "door-token").write_text(caller(number))
        (folder / "routes" / ROUTES_KEY).write_text(json.dumps(routes(1, None).to_json()))
        return Launch(plain.command, {**plain.environment, "GRAFT_API_SERVER": api_url})

    return System(caller(number), graft.GRAFT.version, launch)


def routes(revision: int, limits: HardLimits | None) -> Routes:
    """As the operator writes them: with the new version watched, or with the old one alone."""
    arms, wire = [Arm(version=OLD)], None
    if limits is not None:
        arms = [Arm(version=NEW, weight=10_000 - HELD_BACK), Arm(version=OLD, weight=HELD_BACK)]
        wire = TripWire(version=NEW, instead=OLD, limits=limits)
    route = Route(domain=DOMAIN, revision=revision, salt=DOMAIN, arms=arms, trip_wire=wire)
    return graft.routes().model_copy(update={"revision": revision, "routes": [route]})


@contextmanager
def load(target: Fleet, rate: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Ask the gateways in turn, at this rate together, each request of another conversation. Begins when the warm-up is over."""
    command = (
        *(str(program("load")), "-url", ",".join(one.url for one in target.gateways), "-model", DOMAIN, "-key", API_KEY),
        *("-rate", str(rate), "-warm-up", "2s", "-measured", f"{seconds}s"),
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as generator:
        try:
            await_event(generator, "measuring")
            yield generator
        finally:
            generator.kill()
