"""What one gateway process is told through its environment. How it treats clients comes with the routes instead."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from graft_api.dataplane import API_KEYS_DIRECTORY, DOOR_TOKEN_FILE, GATEWAY_METRICS_PORT, GATEWAY_PORT
from graft_serving.environment import MissingSetting, whole_number


class Balancing(StrEnum):
    """How a pod is chosen among those that have the version."""

    LEAST_OUTSTANDING = "least-outstanding"
    """The one with the fewest requests of this gateway in flight."""
    PREFIX_AFFINE = "prefix-affine"
    """The conversation's own pod, whose prefix cache knows it, unless that one has clearly more to do than the others."""


@dataclass(frozen=True)
class Settings:
    """Ports, folders and times of one gateway process."""

    host: str = "0.0.0.0"  # noqa: S104 - clients are on other pods
    port: int = GATEWAY_PORT
    metrics_port: int = GATEWAY_METRICS_PORT
    keys_directory: Path = Path(API_KEYS_DIRECTORY)
    door_token_file: Path = Path(DOOR_TOKEN_FILE)
    balancing: Balancing = Balancing.PREFIX_AFFINE
    connect_seconds: float = 2.0
    accept_seconds: float = 5.0
    """After SIGTERM new connections are still taken for so long, until every node knows that this pod is gone."""
    grace_seconds: float = 60.0
    """Then requests in flight have so long to finish."""


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Read GRAFT_GATEWAY_*; everything has a default. Raises `MissingSetting`."""
    default = Settings()
    return Settings(
        host=environ.get("GRAFT_GATEWAY_HOST", default.host),
        port=whole_number(environ, "GRAFT_GATEWAY_PORT", default.port),
        metrics_port=whole_number(environ, "GRAFT_GATEWAY_METRICS_PORT", default.metrics_port),
        keys_directory=Path(environ.get("GRAFT_GATEWAY_KEYS", default.keys_directory)),
        door_token_file=Path(environ.get("GRAFT_GATEWAY_DOOR_TOKEN", default.door_token_file)),
        balancing=_balancing(environ.get("GRAFT_GATEWAY_BALANCING", default.balancing)),
        accept_seconds=whole_number(environ, "GRAFT_GATEWAY_ACCEPT_SECONDS", int(default.accept_seconds)),
        grace_seconds=whole_number(environ, "GRAFT_DRAIN_SECONDS", int(default.grace_seconds)),
    )


def _balancing(text: str) -> Balancing:
    try:
        return Balancing(text)
    except ValueError:
        raise MissingSetting(f"GRAFT_GATEWAY_BALANCING must be one of {', '.join(Balancing)}") from None
