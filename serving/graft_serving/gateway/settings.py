"""What one gateway process is told through its environment. How it treats clients comes with the routes instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.dataplane import API_KEYS_DIRECTORY, COLLECTOR_TOKEN_FILE, DOOR_TOKEN_FILE, GATEWAY_METRICS_PORT, GATEWAY_PORT
from graft_runtime.environment import whole_number


@dataclass(frozen=True)
class Settings:
    """Ports, folders and times of one gateway process."""

    host: str = "0.0.0.0"  # noqa: S104 - clients are on other pods
    port: int = GATEWAY_PORT
    metrics_port: int = GATEWAY_METRICS_PORT
    keys_directory: Path = Path(API_KEYS_DIRECTORY)
    door_token_file: Path = Path(DOOR_TOKEN_FILE)
    collector_token_file: Path = Path(COLLECTOR_TOKEN_FILE)
    pods_file: Path = Path("/tmp/graft-pods.json")  # noqa: S108 - a volume of this pod's own
    """What the gateway knew of the server pods, for itself after a restart."""
    memory_bytes: int = 512 * 1024 * 1024
    """So many bytes of requests may be under way at a time, as they came and parsed. Written again for a pod they take as much again."""
    connect_seconds: float = 2.0
    accept_seconds: float = 5.0
    """After SIGTERM new connections are still taken for so long, until every node knows that this pod is gone."""
    grace_seconds: float = 60.0
    """Then requests in flight have so long to finish."""
    flush_seconds: float = 5.0
    """Then the collector has so long to take what it has not got yet."""


def every_address(environ: Mapping[str, str]) -> str:
    """Return all addresses of the pod's own family: a node without IPv6 has no `::`."""
    return "::" if ":" in environ.get("GRAFT_POD_IP", "") else Settings.host


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read GRAFT_GATEWAY_*; everything has a default. Raises `MissingSetting` for what is no number."""
    default = Settings()
    return Settings(
        host=environ.get("GRAFT_GATEWAY_HOST", every_address(environ)),
        port=whole_number(environ, "GRAFT_GATEWAY_PORT", default.port),
        metrics_port=whole_number(environ, "GRAFT_GATEWAY_METRICS_PORT", default.metrics_port),
        keys_directory=Path(environ.get("GRAFT_GATEWAY_KEYS", default.keys_directory)),
        door_token_file=Path(environ.get("GRAFT_GATEWAY_DOOR_TOKEN", default.door_token_file)),
        collector_token_file=Path(environ.get("GRAFT_GATEWAY_COLLECTOR_TOKEN", default.collector_token_file)),
        pods_file=Path(environ.get("GRAFT_GATEWAY_PODS_FILE", default.pods_file)),
        memory_bytes=whole_number(environ, "GRAFT_GATEWAY_MEMORY_BYTES", default.memory_bytes),
        accept_seconds=whole_number(environ, "GRAFT_GATEWAY_ACCEPT_SECONDS", int(default.accept_seconds)),
        grace_seconds=whole_number(environ, "GRAFT_DRAIN_SECONDS", int(default.grace_seconds)),
    )
