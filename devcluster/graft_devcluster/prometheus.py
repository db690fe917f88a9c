"""
Prometheus, as most clusters have one: it reads every pod that asks for it by annotation (`discovery`).

Debian's, unpacked beside the other programs and not installed: its package would start it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from graft_devcluster import packages
from graft_devcluster.certificates import Identity
from graft_devcluster.errors import ClusterError
from graft_devcluster.process import Daemon
from graft_devcluster.settings import Port, Settings

NAME, DISCOVERY = "prometheus", "prometheus-discovery"
IDENTITY = Identity(NAME, "graft-prometheus")
VERSION = "2.42*"
SCRAPE_SECONDS = 5
_HERE = "prometheus-debian12"


def folder(cache: Path) -> Path:
    """Where `ensure` puts the programs."""
    return cache / "bin" / _HERE / "usr" / "bin"


def ensure(cache: Path) -> Path:
    """Return the folder with `prometheus` and `promtool`, fetched if they are not there. Raises ClusterError."""
    found = folder(cache)
    if not (found / NAME).exists():
        place = cache / "bin" / _HERE
        place.mkdir(parents=True, exist_ok=True)
        _download(place)
        (package,) = place.glob(f"{NAME}_*.deb")
        packages.run(["dpkg", "-x", str(package), str(place)])
        package.unlink()
    return found


def url(settings: Settings) -> str:
    """Its address for host and pods alike."""
    return f"http://{settings.node_address}:{settings.port(Port.PROMETHEUS)}"


def configuration(settings: Settings) -> dict[str, object]:
    """What it reads: the pods that `discovery` tells of."""
    found_by = {"url": f"http://127.0.0.1:{settings.port(Port.DISCOVERY)}/", "refresh_interval": f"{SCRAPE_SECONDS}s"}
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
        # What a pod says of itself goes before what is known of the pod: the operator's metrics are of other namespaces than its own.
        "scrape_configs": [{"job_name": "pods", "honor_labels": True, "http_sd_configs": [found_by]}],
    }


def discoverer(settings: Settings, kubeconfig: Path) -> Daemon:
    """The daemon that tells it which pods there are."""
    argv = (sys.executable, "-m", "graft_devcluster.discovery", str(kubeconfig), "127.0.0.1", str(settings.port(Port.DISCOVERY)))
    return Daemon(DISCOVERY, argv, inputs=(kubeconfig,), environment={"PYTHONPATH": str(Path(__file__).parents[1])})


def server(settings: Settings, configured: Path) -> Daemon:
    """The daemon, with its data in the cluster's state."""
    data = settings.state / NAME
    data.mkdir(parents=True, exist_ok=True)
    argv = (
        str(folder(settings.cache) / NAME),
        f"--config.file={configured}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=1d",
        f"--web.listen-address={settings.node_address}:{settings.port(Port.PROMETHEUS)}",
        "--web.console.templates=/nonexistent",
        "--web.console.libraries=/nonexistent",
    )
    return Daemon(NAME, argv, inputs=(configured,), environment={"GOMAXPROCS": "1"})


def _download(place: Path) -> None:
    wanted = ["apt-get", "download", "-qq", f"{NAME}={VERSION}"]
    with packages.alone():
        try:
            packages.run(wanted, place)
        except ClusterError:  # it may know of no packages at all yet
            packages.run(["apt-get", "update", "-qq"])
            packages.run(wanted, place)
