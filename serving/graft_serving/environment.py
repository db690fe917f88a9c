"""What the operator tells the containers of the data plane, through their environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_api.dataplane import REPORTS_DIRECTORY, ROUTES_DIRECTORY
from graft_runtime.environment import required


@dataclass(frozen=True)
class Identity:
    """Which endpoint a process serves, as which pod, and where it reports."""

    namespace: str
    endpoint: str
    pod_name: str
    pod_ip: str = ""
    reports_url: str = ""
    """Empty: nobody to report to (a benchmark, a test)."""
    reports_directory: Path = Path(REPORTS_DIRECTORY)
    routes_directory: Path = Path(ROUTES_DIRECTORY)


def identity_from(environ: Mapping[str, str]) -> Identity:
    """Read what all containers share. Raises `MissingSetting`."""
    return Identity(
        namespace=required(environ, "GRAFT_NAMESPACE"),
        endpoint=required(environ, "GRAFT_ENDPOINT"),
        pod_name=required(environ, "GRAFT_POD_NAME"),
        pod_ip=environ.get("GRAFT_POD_IP", ""),
        reports_url=environ.get("GRAFT_REPORTS_URL", ""),
        reports_directory=Path(environ.get("GRAFT_REPORTS_DIRECTORY", REPORTS_DIRECTORY)),
        routes_directory=Path(environ.get("GRAFT_ROUTES_DIRECTORY", ROUTES_DIRECTORY)),
    )
