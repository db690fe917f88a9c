"""What the agent is told by its environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.dataplane import (
    ADAPTERS_DIRECTORY,
    AGENT_HEALTH_PORT,
    AGENT_SOCKET,
    CREDENTIALS_DIRECTORY,
    MODEL_DIGEST_FILE,
    READ_ONLY_MODEL_DIGEST_FILE,
    RUN_DIRECTORY,
    SERVER_PORT,
)
from graft_runtime.environment import whole_number
from graft_serving.agent.wanted import Server
from graft_serving.environment import Identity, identity_from


@dataclass(frozen=True)
class Settings:
    """Of one agent."""

    identity: Identity
    cache_bytes: int
    drain_seconds: int
    server: Server
    vllm_url: str
    adapters: Path
    credentials: Path
    socket: Path
    run_directory: Path
    health_port: int
    door_account: str | None = None
    """Whose token opens the door of a shadow server. None: the gateway's of this endpoint."""
    drift_account: str | None = None
    """Whose Jobs measure drift. None: the endpoint's own account for it."""


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read them; what the operator does not set is where the containers agree that it is. Raises `MissingSetting`."""
    return Settings(
        identity=identity_from(environ),
        cache_bytes=whole_number(environ, "GRAFT_ADAPTER_CACHE_BYTES", 20 * 1024**3),
        drain_seconds=whole_number(environ, "GRAFT_DRAIN_SECONDS", 60),
        server=server_from(environ),
        vllm_url=environ.get("GRAFT_VLLM_URL", f"http://127.0.0.1:{SERVER_PORT}"),
        adapters=Path(environ.get("GRAFT_ADAPTERS_DIRECTORY", ADAPTERS_DIRECTORY)),
        credentials=Path(environ.get("GRAFT_CREDENTIALS_DIRECTORY", CREDENTIALS_DIRECTORY)),
        socket=Path(environ.get("GRAFT_AGENT_SOCKET", AGENT_SOCKET)),
        run_directory=Path(environ.get("GRAFT_RUN_DIRECTORY", RUN_DIRECTORY)),
        health_port=whole_number(environ, "GRAFT_AGENT_HEALTH_PORT", AGENT_HEALTH_PORT),
        door_account=environ.get("GRAFT_DOOR_ACCOUNT") or None,
        drift_account=environ.get("GRAFT_DRIFT_ACCOUNT") or None,
    )


def server_from(environ: Mapping[str, str]) -> Server:
    """Read with what this pod's vLLM was started. Raises `MissingSetting`."""
    return Server(
        # None of both: a pod that an older graft made.
        max_loras=whole_number(environ, "GRAFT_MAX_LORAS", 0) or None,
        max_lora_rank=whole_number(environ, "GRAFT_MAX_LORA_RANK", 0) or None,
        base_digest=environ.get("GRAFT_BASE_DIGEST") or written_digest(environ),
    )


def written_digest(environ: Mapping[str, str]) -> str | None:
    """Return what `fetch-base` found; None in a pod without it."""
    for name in (environ.get("GRAFT_MODEL_DIGEST_FILE", MODEL_DIGEST_FILE), READ_ONLY_MODEL_DIGEST_FILE):
        if Path(name).is_file():
            return Path(name).read_text().strip() or None
    return None
