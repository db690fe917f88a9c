"""
From leadership to routes: what an operator that was killed between the ledger and the routes of a roll-back leaves to its successor.

The operator is the process of this checkout with the chart's rights and policies, the API server a real one. What was left is what an
operator itself has written: it has rolled the version back, and its routes are put back to those before.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from graft_api.dataplane import LEDGER_KEY, ROUTES_KEY, ledger_name, routes_name
from graft_api.ledger import Ledger
from graft_api.schema import parse
from graft_devcluster.apitier import ApiServer
from graft_devcluster.localoperator import NAMESPACE, LocalOperator
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox
from graft_operator.engine.clock import rfc3339
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, LEASES, MODEL_ENDPOINTS, NAMESPACES, Object
from graft_operator.modelendpoint.children import Parent, ledger_config_map

OPERATOR = f"system:serviceaccount:{NAMESPACE}:graft-operator"
LEASE = "graft-operator"
WHERE = "bench"
PATIENCE = 60.0
BASE = f"sha256:{'b' * 64}"
METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
POLICY = {
    "shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]},
    "approval": {"users": ["anna"], "required": 1},
    "watch": {"window": "1h", "minClusters": 20},
}


def digest(letter: str) -> str:
    return f"sha256:{letter * 64}"


@dataclass(frozen=True)
class Left:
    """What an operator that was killed has written of one endpoint."""

    ledger: str
    """In which the version is rolled back."""
    routes: str
    """By which it serves."""


def leadership(times: int, beside: int) -> list[float]:
    """
    Return the milliseconds from the moment at which the lease is a new operator's to the routes that complete the roll-back: one value
    for each time that the operator is killed. `beside`: endpoints of which nothing is left undone, and which a new leader looks at as well.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graft-bench-")))
        stack.enter_context(kubectl_on_path())
        server = stack.enter_context(ApiServer())
        operator = LocalOperator(server, folder)
        operator.apply_chart()
        return asyncio.run(measured(server, operator, times, beside))


@contextmanager
def kubectl_on_path() -> Iterator[None]:
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{Toolbox(cache_root()).path('kubectl').parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


async def measured(server: ApiServer, operator: LocalOperator, times: int, beside: int) -> list[float]:
    # Nobody but the operator may write its records, administrators included.
    async with Kube(load_credentials(server.kubeconfig)) as admin, Kube(load_credentials(operator.kubeconfig())) as own:
        await admin.create(NAMESPACES, {"metadata": {"name": WHERE}})
        for number in range(beside):
            await add_endpoint(admin, own, f"beside-{number}")
        await add_endpoint(admin, own, "prod")
        left = await rolled_back_once(admin, own, operator)
        return [await completed(server, admin, own, operator, left) for _ in range(times)]


async def add_endpoint(admin: Kube, own: Kube, name: str) -> None:
    """An endpoint on which a candidate is watched, as its ledger says."""
    await own.create(CONFIG_MAPS, ledger_config_map(Parent(WHERE, name, "of-the-one-before"), watched_ledger(name)))
    spec = {
        "baseModel": {"uri": "s3://models/base", "digest": BASE},
        "gateway": {"anonymous": True, "replicas": 1},
        "trustedKeys": [],
        "collector": {"store": "s3://measured"},
        "domains": [{"name": "dsl", "promotion": POLICY}],
    }
    await admin.create(MODEL_ENDPOINTS, {"metadata": {"name": name, "namespace": WHERE}, "spec": spec})
    for letter in "ac":
        artifact = {"uri": f"s3://adapters/{letter}", "digest": digest(letter), "sizeBytes": 10}
        spec = {"artifact": artifact, "domain": "dsl", "baseModelDigest": BASE, "endpointRef": {"name": name}, "promote": False}
        await admin.create(ADAPTERS, {"metadata": {"name": f"{name}-{letter}", "namespace": WHERE}, "spec": spec})


def watched_ledger(name: str) -> Ledger:
    now = rfc3339(datetime.now(UTC))
    old, new = (
        {"adapter": f"{name}-{letter}", "digest": digest(letter), "uri": f"s3://adapters/{letter}", "sizeBytes": 10} for letter in "ac"
    )
    gate = {"number": 1, "version": new, "adapterUid": "uid-c", "policy": POLICY, "state": "Watching", "since": now, "began": now}
    gate |= {"test": "t", "switch": 1, "watch": {"began": now}}
    history = [{"ordinal": 1, "at": now, "reason": "Promoted", "before": f"{name}-a", "after": f"{name}-c"}]
    domain = {"name": "dsl", "salt": "salt", "active": new, "previous": old, "history": history, "gate": gate}
    return parse(Ledger, {"endpoint": name, "baseDigest": BASE, "domains": [domain]})


async def rolled_back_once(admin: Kube, own: Kube, operator: LocalOperator) -> Left:
    """Have an operator route to both versions, and then take the new one out. Returns its ledger of after and its routes of before."""
    operator.start()
    before = await until_routed(admin, arms=2)
    known = parse(Ledger, json.loads((await record(admin, ledger_name("prod")))["data"][LEDGER_KEY]))
    entry = known.domains[0]
    kept = [{"digest": digest("c"), "at": entry.gate.since if entry.gate else "", "author": "graft", "reason": "worse"}]
    rejected = parse(Ledger, known.to_json() | {"domains": [entry.to_json() | {"rejected": kept}]})
    await write(own, ledger_name("prod"), LEDGER_KEY, json.dumps(rejected.to_json()))
    await until_routed(admin, arms=1)
    operator.stop(signal.SIGKILL)
    return Left((await record(admin, ledger_name("prod")))["data"][LEDGER_KEY], before)


async def completed(server: ApiServer, admin: Kube, own: Kube, operator: LocalOperator, left: Left) -> float:
    """Leave it half done, start an operator, kill it once it is done. Returns milliseconds, by the API server's own clock."""
    await write(own, ledger_name("prod"), LEDGER_KEY, left.ledger)
    await write(own, routes_name("prod"), ROUTES_KEY, left.routes)
    await admin.delete(LEASES, NAMESPACE, LEASE)  # its holder is dead: nobody need wait for it to expire
    known = server.audit_log.stat().st_size
    operator.start()
    await until_routed(admin, arms=1)
    operator.stop(signal.SIGKILL)
    events = said_since(server.audit_log, known)
    return 1000 * (answered(events, "configmaps", routes_name("prod")) - answered(events, "leases", LEASE))


def said_since(log: Path, size: int) -> list[Object]:
    """Return the operator's writes that the API server has answered since its log had this size."""
    with log.open("rb") as lines:
        lines.seek(size)
        events = [json.loads(line) for line in lines if line.endswith(b"}\n")]
    return [
        event
        for event in events
        if event["user"]["username"] == OPERATOR and event["stage"] == "ResponseComplete" and event["verb"] in {"create", "patch", "update"}
    ]


def answered(events: list[Object], resource: str, name: str) -> float:
    """Return when the API server had answered the first successful write of an object, in seconds since 1970."""
    for event in events:
        about = event.get("objectRef") or {}
        # A create names its object in the answer alone, of which the log has nothing: there is one Lease.
        if about.get("resource") == resource and about.get("name", name) == name and event["responseStatus"]["code"] < 300:
            return datetime.fromisoformat(event["stageTimestamp"]).timestamp()
    raise SystemExit(f"the operator has not written {resource} {name}: {[(event['verb'], event.get('requestURI')) for event in events]}")


async def until_routed(admin: Kube, arms: int) -> str:
    """Wait until the routes have so many arms. Returns them."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = await admin.get(CONFIG_MAPS, WHERE, routes_name("prod"))
        routes: str = found["data"][ROUTES_KEY] if found else '{"routes": []}'
        if [len(route["arms"]) for route in json.loads(routes)["routes"]] == [arms]:
            return routes
        await asyncio.sleep(0.02)
    raise SystemExit(f"there are no routes with {arms} arms after {PATIENCE:.0f} s")


async def record(admin: Kube, name: str) -> Object:
    found = await admin.get(CONFIG_MAPS, WHERE, name)
    assert found is not None, f"there is no {name}"
    return found


async def write(own: Kube, name: str, key: str, text: str) -> None:
    await own.merge_patch(CONFIG_MAPS, WHERE, name, {"data": {key: text}})
