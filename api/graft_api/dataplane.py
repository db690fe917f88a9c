"""
What the containers of the data plane agree on: names, ports, paths, labels.

    server pod   fetch (init) -> vllm (loopback only) | door (the one port) | agent (unix socket, API server, operator)
    gateway pod  gateway (clients, metrics)
"""

import hashlib

SERVER, GATEWAY = "server", "gateway"
"""Values of the component label, and roles of reports."""

COMPONENT_LABEL = "graft.dev/component"
ENDPOINT_LABEL = "graft.dev/modelendpoint"
RECORD_LABEL = "graft.dev/record"
"""On ConfigMaps that the operator alone writes (policy graft-records). One without it is anybody's, whatever its name."""
ROUTES_RECORD, LEDGER_RECORD, COLLECTOR_RECORD, EVIDENCE_RECORD = "routes", "ledger", "collector", "evidence"
"""Values of the record label."""
SHADOW_LABEL = "graft.dev/shadow-of"
"""On server pods that a ShadowTest has: whose collector asks them. By it the policy graft-shadows knows what is not people's to scale."""

DOOR_PORT = 8000
"""Of a server pod: all that other pods can reach of it, with the gateway's token."""
SERVER_PORT = 8001
"""vLLM, on 127.0.0.1 of its pod: no other pod reaches it, whatever the network enforces."""
AGENT_HEALTH_PORT = 8002
"""/readyz and /livez of the agent, for the kubelet. Carries no data."""
GATEWAY_PORT = 8080
"""Clients."""
GATEWAY_METRICS_PORT = 9090
"""/metrics, /readyz, /livez."""

INFERENCE_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
"""All that the door lets through to vLLM, by POST. Everything else is 404 there."""
STATE_PATH = "/graft/state"
"""GET through the door, with the token: `fleet.AgentState`. With `?after=<generation>` it answers on change, or after 20 s."""
DRAIN_PATH = "/graft/drain"
"""GET through the door, no token: the kubelet's preStop hook. Answers when nothing is in flight; refused unless the pod is terminating."""
LIVE_PATH = "/graft/livez"
"""GET through the door, no token: vLLM's own /health, status only."""

NOT_STARTED_HEADER = "x-graft-not-started"
"""The door sets it on a 502 or 503 whose request never reached vLLM: it may be sent to another pod."""
SERVED_BY_HEADER = "x-graft-served-by"
"""On every answer: `<version or base>@<pod>`."""

BASE_NAME = "base"
"""What vLLM calls the base model (`--served-model-name`)."""

RUN_DIRECTORY = "/graft/run"
"""Memory volume that agent and door share: the agent's socket."""
AGENT_SOCKET = "/graft/run/agent.sock"
MODEL_DIRECTORY = "/graft/model"
MODEL_DIGEST_FILE = "/graft/model/.graft-digest"
"""Written by `fetch-base` after the last file: the folder digest of the base model."""
READ_ONLY_MODEL_DIGEST_FILE = "/graft/run/base-digest"
"""The same, where the model's folder is mounted read-only (pvc://): `fetch-base` mounts the run directory, too."""
ADAPTERS_DIRECTORY = "/graft/adapters"
"""Written by the agent, read-only for vLLM: `<version name>/adapter_config.json ...`."""
ROUTES_DIRECTORY = "/graft/routes"
ROUTES_KEY = "routes.json"
LEDGER_KEY = "ledger.json"
REPORTS_DIRECTORY = "/graft/reports"
"""token (audience graft.dev) and ca.crt."""
DOOR_TOKEN_FILE = "/graft/door/token"  # noqa: S105 - a path
"""The gateway's token for the doors of its endpoint; the kubelet rotates it."""
CREDENTIALS_DIRECTORY = "/graft/credentials"
API_KEYS_DIRECTORY = "/graft/keys"
"""One file per API key: its name is the key's owner, its content `sha256:<hex of the key>`."""

COLLECTOR_TOKEN_FILE = "/graft/collector/token"  # noqa: S105 - a path
"""The gateway's token for the collector of its endpoint; the kubelet rotates it."""

DOOR_TOKEN_SECONDS = 43_200
"""Long beside the kubelet's early renewal at 80 %: an API server that is away for two hours locks no gateway out."""


def door_audience(endpoint: str) -> str:
    """Return the audience of tokens for the doors of one endpoint. Only nodes may request it (policy graft-tokens)."""
    return f"graft.dev/door/{endpoint}"


def collector_audience(endpoint: str) -> str:
    """Return the audience of tokens for the collector of one endpoint. Only nodes may request it (policy graft-tokens)."""
    return f"graft.dev/collector/{endpoint}"


def server_account(endpoint: str) -> str:
    """Return the service account of server pods."""
    return f"graft-server-{endpoint}"


def gateway_account(endpoint: str) -> str:
    """Return the service account of gateway pods."""
    return f"graft-gateway-{endpoint}"


def server_service(endpoint: str) -> str:
    """Return the headless Service whose EndpointSlices name the server pods."""
    return f"{endpoint}-server"


def gateway_service(endpoint: str) -> str:
    """Return the Service that clients use."""
    return f"{endpoint}-gateway"


def routes_name(endpoint: str) -> str:
    """Return the ConfigMap with the routes."""
    return f"{endpoint}-routes"


def ledger_name(endpoint: str) -> str:
    """Return the ConfigMap with the ledger."""
    return f"{endpoint}-ledger"


def version_name(domain: str, digest: str) -> str:
    """
    Return the name under which vLLM holds one adapter.

    Immutable, one per digest: vLLM's prefix cache knows an adapter by its name, so a name never gets other weights.
    """
    return f"{domain[:40]}-{hashlib.sha256(f'{domain}@{digest}'.encode()).hexdigest()[:16]}"
