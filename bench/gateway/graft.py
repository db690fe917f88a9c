"""The gateway with everything on: routing with two domains of two arms each, API keys, limits, metrics, tracing."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from systems import API_KEY, MODELS, ROOT, VERSIONS, Launch, System, free_port

from graft_api.dataplane import ROUTES_KEY
from graft_api.fleet import AgentState
from graft_api.routes import (
    Arm,
    DomainLimits,
    EndpointIdentity,
    GatewaySettings,
    KeyLimits,
    Route,
    Routes,
    Version,
)

NAMESPACE, ENDPOINT = "bench", "chat"
# High enough to refuse nobody: what counts is that they are counted.
PER_MINUTE, CONCURRENT = 10_000_000, 100_000


def launch(folder: Path, port: int, mock_port: int) -> Launch:
    """Write what a gateway's pod has mounted; two static pods, both the mock, instead of EndpointSlices, so that there is a choice."""
    for name in ("routes", "keys", "reports"):
        (folder / name).mkdir()
    (folder / "routes" / ROUTES_KEY).write_text(json.dumps(routes().to_json()))
    (folder / "keys" / "bench").write_text(f"sha256:{hashlib.sha256(API_KEY.encode()).hexdigest()}\n")
    (folder / "door-token").write_text("bench\n")
    pods = [{"name": f"mock-{host}", "address": f"{host}:{mock_port}"} for host in ("127.0.0.1", "localhost")]
    (folder / "pods.json").write_text(json.dumps(pods))
    environment = {
        "GRAFT_NAMESPACE": NAMESPACE,
        "GRAFT_ENDPOINT": ENDPOINT,
        "GRAFT_POD_NAME": "gateway-bench",
        "GRAFT_POD_IP": "127.0.0.1",
        "GRAFT_ROUTES_DIRECTORY": str(folder / "routes"),
        "GRAFT_REPORTS_DIRECTORY": str(folder / "reports"),
        "GRAFT_GATEWAY_HOST": "127.0.0.1",
        "GRAFT_GATEWAY_PORT": str(port),
        "GRAFT_GATEWAY_METRICS_PORT": str(free_port()),
        "GRAFT_GATEWAY_KEYS": str(folder / "keys"),
        "GRAFT_GATEWAY_DOOR_TOKEN": str(folder / "door-token"),
        "GRAFT_STATIC_PODS": str(folder / "pods.json"),
        "GRAFT_GATEWAY_ACCEPT_SECONDS": "0",
        "GRAFT_DRAIN_SECONDS": "1",
    }
    return Launch((str(ROOT / ".venv/bin/graft-serving"), "gateway"), environment)


def routes() -> Routes:
    limits = DomainLimits(requests_per_minute=PER_MINUTE, concurrent=CONCURRENT)
    return Routes(
        endpoint=EndpointIdentity(namespace=NAMESPACE, name=ENDPOINT, uid="bench"),
        epoch=1,
        revision=1,
        max_loras=len(MODELS) * 2,
        max_lora_rank=64,
        signing_keys=[],
        versions=[each for model in MODELS for each in versions(model)],
        routes=[
            Route(domain=model, revision=1, salt=model, arms=[Arm(version=name, weight=5000) for name in VERSIONS[model]], limits=limits)
            for model in MODELS
        ],
        gateway=GatewaySettings(per_key=KeyLimits(requests_per_minute=PER_MINUTE, concurrent=CONCURRENT)),
    )


def versions(model: str) -> list[Version]:
    return [
        Version(name=name, domain=model, adapter=model, digest=digest(name), uri=f"s3://bench/{name}", size_bytes=1)
        for name in VERSIONS[model]
    ]


def digest(name: str) -> str:
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def agent_state() -> AgentState:
    """What the mock says of itself: it has every version."""
    return AgentState(boot="bench", generation=1, serving=True, versions=[name for names in VERSIONS.values() for name in names])


GRAFT = System("graft", lambda: version("graft"), launch)
