"""A real API server without a node: ready in a few seconds, as any user, for tests and for trying things out.

with ApiServer() as server:
    subprocess.run(["kubectl", "--kubeconfig", server.kubeconfig, "get", "namespaces"], check=True)
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType

from graft_devcluster import controlplane
from graft_devcluster.apiclient import ApiClient
from graft_devcluster.certificates import write_kubeconfig
from graft_devcluster.controlplane import ControlPlane, PlanePorts
from graft_devcluster.errors import ClusterError
from graft_devcluster.process import Processes, write_atomically
from graft_devcluster.settings import Port, Settings, Tier, cache_root
from graft_devcluster.tools import Toolbox

_READY_SECONDS = 90.0


def plane_of(settings: Settings, tier: Tier) -> ControlPlane:
    """The control plane of a named cluster."""
    ports = PlanePorts(
        api=settings.port(Port.API),
        etcd=settings.port(Port.ETCD),
        etcd_peer=settings.port(Port.ETCD_PEER),
        controllers=settings.port(Port.CONTROLLERS),
        scheduler=settings.port(Port.SCHEDULER),
    )
    return ControlPlane(settings.state, ports, settings.service_network, settings.node_address if tier is Tier.NODE else None)


@dataclass(frozen=True)
class Programs:
    """The programs of the API tier: built ones, or those in KUBEBUILDER_ASSETS where it has them."""

    toolbox: Toolbox
    assets: Path | None = None

    def path(self, name: str) -> Path:
        if self.assets and (self.assets / name).exists():
            return self.assets / name
        return self.toolbox.path(name)

    def ensure(self, names: list[str]) -> None:
        self.toolbox.ensure([name for name in names if not self.path(name).exists()])


def programs(environ: Mapping[str, str] = os.environ) -> Programs:
    assets = environ.get("KUBEBUILDER_ASSETS")
    return Programs(Toolbox(cache_root(environ)), Path(assets) if assets else None)


def start_api_server(plane: ControlPlane, processes: Processes, binaries: Programs) -> ApiClient:
    """etcd, then the API server; returns when it says it is ready. Does nothing that is done already."""
    write_atomically(plane.configs / "audit-policy.json", controlplane.audit_policy())
    plane.audit_log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    processes.ensure(controlplane.etcd(plane, binaries.path("etcd")))
    processes.ensure(controlplane.api_server(plane, binaries.path("kube-apiserver")))
    admin = write_kubeconfig(plane.folder / "kubeconfig", plane.url, plane.pki, "admin", "graft-admin")
    client = ApiClient(admin)
    processes.wait_for("kube-apiserver", client.ready, _READY_SECONDS)
    return client


def start_controllers(plane: ControlPlane, processes: Processes, binaries: Programs) -> bool:
    kubeconfig = plane.configs / "controller-manager.kubeconfig"
    write_kubeconfig(kubeconfig, plane.url, plane.pki, "controller-manager", "system:kube-controller-manager")
    return processes.ensure(controlplane.controller_manager(plane, binaries.path("kube-controller-manager"), kubeconfig))


class ApiServer:
    """An API server for one test session: free ports, a temporary folder, gone with the process that made it.

    With GRAFT_TEST_USE_EXISTING_CLUSTER=1 it stands for the cluster of KUBECONFIG instead and starts nothing; then
    everything that would interrupt that cluster is refused.
    """

    def __init__(self, *, controllers: bool = False, environ: Mapping[str, str] = os.environ) -> None:
        self._controllers = controllers
        self._environ = environ
        self._resources = ExitStack()
        self._plane: ControlPlane | None = None
        self._processes: Processes | None = None
        self._existing: Path | None = None

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def existing(self) -> bool:
        """Whether this is somebody else's cluster, which a test must not interrupt."""
        return self._environ.get("GRAFT_TEST_USE_EXISTING_CLUSTER") == "1"

    @property
    def kubeconfig(self) -> Path:
        return self._existing or self._own().folder / "kubeconfig"

    @property
    def url(self) -> str:
        return self._own().url

    @property
    def certificate_authority(self) -> Path:
        return self._own().pki.certificate("ca")

    @property
    def audit_log(self) -> Path:
        """One JSON object per request, level Metadata."""
        return self._own().audit_log

    def start(self) -> None:
        if self.existing:
            self._existing = _existing_kubeconfig(self._environ)
            return
        binaries = programs(self._environ)
        binaries.ensure(["etcd", "kube-apiserver", *(["kube-controller-manager"] if self._controllers else [])])
        folder = Path(tempfile.mkdtemp(prefix="graft-api-"))
        self._resources.callback(shutil.rmtree, folder, ignore_errors=True)
        self._plane = plane = ControlPlane(folder, PlanePorts(*free_ports(5)), IPv4Network("10.0.0.0/16"))
        self._processes = processes = Processes(folder / "pids", folder / "logs", die_with_parent=True)
        self._resources.callback(self._stop_processes, processes)
        plane.pki.ensure(controlplane.identities(plane))
        try:
            start_api_server(plane, processes, binaries)
            if self._controllers:
                start_controllers(plane, processes, binaries)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything and remove the folder. Safe to call twice."""
        self._resources.close()
        self._plane = self._processes = None

    def pause(self) -> None:
        """Freeze the API server: connections are accepted and never answered, as when it is overloaded."""
        self._running().signal("kube-apiserver", signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal("kube-apiserver", signal.SIGCONT)

    def stop_api_server(self) -> None:
        """Take the API server away: connections are refused. etcd keeps everything."""
        self._running().stop("kube-apiserver")

    def start_api_server(self) -> None:
        """Bring it back on the same port with the same data; returns when it is ready."""
        start_api_server(self._own(), self._running(), programs(self._environ))

    def restart(self) -> None:
        self.stop_api_server()
        self.start_api_server()

    def log(self, component: str = "kube-apiserver") -> str:
        """What a component said, for the message of a failing test."""
        return self._running().log(component).read_text(errors="replace")

    def _own(self) -> ControlPlane:
        if self._plane is None:
            raise ClusterError("this is an existing cluster" if self._existing else "the API server is not started")
        return self._plane

    def _running(self) -> Processes:
        if self._processes is None:
            raise ClusterError("this is an existing cluster" if self._existing else "the API server is not started")
        return self._processes

    @staticmethod
    def _stop_processes(processes: Processes) -> None:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            processes.stop(name, patience=0)


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. All are held until the last is known, so that no two are the same."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _existing_kubeconfig(environ: Mapping[str, str]) -> Path:
    if not environ.get("KUBECONFIG"):
        raise ClusterError("GRAFT_TEST_USE_EXISTING_CLUSTER=1 needs KUBECONFIG to name the cluster")
    return Path(environ["KUBECONFIG"].split(os.pathsep)[0])
