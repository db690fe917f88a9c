"""Starting and stopping a cluster: the whole story, top to bottom, in the order it happens."""

from __future__ import annotations

import contextlib
import fcntl
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft_devcluster import (
    apitier,
    cleanup,
    containerd,
    controlplane,
    host,
    iptables,
    kuberay,
    manifests,
    node,
    packages,
    ports,
    prometheus,
    s3,
    tools,
)
from graft_devcluster.apiclient import ApiClient, ApiError
from graft_devcluster.apitier import Programs
from graft_devcluster.certificates import write_kubeconfig
from graft_devcluster.controlplane import ControlPlane
from graft_devcluster.errors import ClusterError
from graft_devcluster.process import Processes, write_atomically
from graft_devcluster.settings import Port, Settings, Tier, remember

EXTRAS = {"kuberay": kuberay.NAME}
_READY_SECONDS = 120.0


def say(message: str) -> None:
    print(message, flush=True)


def processes_of(settings: Settings) -> Processes:
    return Processes(settings.pids, settings.logs)


@contextlib.contextmanager
def locked(settings: Settings) -> Iterator[None]:
    """One `up` or `down` at a time; a second one waits and then finds the work done."""
    folder = settings.cache / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{settings.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting: another command is changing cluster {settings.name!r}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up_api(settings: Settings, *, controllers: bool) -> None:
    """The API tier: as any user, nothing on the host but three processes."""
    binaries = apitier.programs()
    plane = apitier.plane_of(settings, Tier.API)
    processes = processes_of(settings)
    binaries.ensure(["etcd", "kube-apiserver", *(["kube-controller-manager"] if controllers else [])])
    remember(settings, Tier.API)
    ports.require_free(_not_running(processes, listeners(settings, Tier.API)))
    plane.pki.ensure(controlplane.identities(plane))
    apitier.start_api_server(plane, processes, binaries)
    if controllers:
        apitier.start_controllers(plane, processes, binaries)
    else:
        processes.stop("kube-controller-manager")


def up_node(settings: Settings, extras: Collection[str]) -> None:
    """The node tier: prepare the host, start everything that is not running, wait until a pod could run."""
    start = NodeStart(settings)
    # What was started once belongs to the cluster until `down`: a repair brings it back without being told.
    extras = {*extras, *(name for name in EXTRAS.values() if name in start.processes.names())}
    start.check_host()
    start.build(extras)
    start.prepare_host()
    start.runtime()
    client = start.control_plane()
    start.components(client)
    if kuberay.NAME in extras:
        start.kuberay(client)
    start.wait(client)


@dataclass(frozen=True)
class NodeStart:
    """The steps of starting a node tier, for one cluster. Each does only what is not done yet."""

    settings: Settings

    @property
    def processes(self) -> Processes:
        return processes_of(self.settings)

    @property
    def toolbox(self) -> tools.Toolbox:
        return tools.Toolbox(self.settings.cache)

    @property
    def plane(self) -> ControlPlane:
        return apitier.plane_of(self.settings, Tier.NODE)

    def check_host(self) -> None:
        if os.geteuid() != 0:
            raise ClusterError("the node tier needs root (interfaces, mounts, cgroups); run as root, or use `up --tier api`")
        packages.ensure()
        if iptables.kube_proxy(host.saved_rules("iptables"), self.settings.network) is iptables.KubeProxy.FOREIGN:
            raise ClusterError(
                "another Kubernetes runs kube-proxy on this host; two would fight over the same firewall rules; stop that one"
            )

    def build(self, extras: Collection[str]) -> None:
        self.toolbox.ensure([*tools.NODE_TIER, *extras])
        prometheus.ensure(self.settings.cache)

    def prepare_host(self) -> None:
        settings = self.settings
        remember(settings, Tier.NODE)
        host.remember(settings)
        ports.require_free(_not_running(self.processes, listeners(settings, Tier.NODE)))
        host.prepare(settings)

    def runtime(self) -> None:
        """Network configuration first: containerd reads it when it starts, and warns until there is one."""
        cni = self.settings.configs / "cni"
        write_atomically(cni / "10-graft.conflist", node.as_json(node.cni_configuration(self.settings)))
        write_atomically(cni / "99-loopback.conf", node.as_json(node.loopback_configuration()))
        containerd.ensure_running(self.settings, self.processes)
        containerd.ensure_pause_image(self.settings, self.toolbox.path("pause"))

    def control_plane(self) -> ApiClient:
        self.plane.pki.ensure([*controlplane.identities(self.plane), *node.identities(self.settings), prometheus.IDENTITY])
        client = apitier.start_api_server(self.plane, self.processes, Programs(self.toolbox))
        for resource in manifests.all_objects(self.settings, s3.credentials(self.settings).environment()):
            client.apply(resource)
        return client

    def components(self, client: ApiClient) -> None:
        settings, processes, path = self.settings, self.processes, self.toolbox.path
        apitier.start_controllers(self.plane, processes, Programs(self.toolbox))
        scheduler = self._kubeconfig("scheduler", "system:kube-scheduler")
        processes.ensure(controlplane.scheduler(self.plane, path("kube-scheduler"), scheduler))
        self._start_kubelet()
        proxy = self._kubeconfig("kube-proxy", "system:kube-proxy")
        configuration = self._config("kube-proxy.json", node.as_json(node.kube_proxy_configuration(settings, proxy)))
        processes.ensure(node.kube_proxy(path("kube-proxy"), configuration, proxy))
        dns = self._kubeconfig("coredns", "system:coredns")
        corefile = self._config("Corefile", node.corefile(settings, dns, node.upstream_servers(_host_resolv_conf())))
        processes.ensure(node.coredns(path("coredns"), corefile, dns))
        processes.ensure(s3.gateway(settings, path("versitygw")))
        pods = self._kubeconfig(prometheus.NAME, prometheus.IDENTITY.common_name)
        processes.ensure(prometheus.discoverer(settings, pods))
        processes.ensure(prometheus.server(settings, self._config("prometheus.json", node.as_json(prometheus.configuration(settings)))))

    def kuberay(self, client: ApiClient) -> None:
        kuberay.start(self.settings, self.processes, self.toolbox, client, self.plane.url)

    def wait(self, client: ApiClient) -> None:
        """Until a pod could run: the node is ready, names resolve, S3 answers, and namespaces get their service account."""
        settings = self.settings
        node_path = f"/api/v1/nodes/{settings.node_name}"
        health = f"http://127.0.0.1:{settings.port(Port.KUBELET_HEALTH)}/healthz"
        dns = f"http://127.0.0.1:{settings.port(Port.DNS_READY)}/ready"
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self.processes.wait_for("kubelet", lambda: _answers(health) and _node_ready(client, node_path), _READY_SECONDS)
        self.processes.wait_for("coredns", lambda: _answers(dns), _READY_SECONDS)
        self.processes.wait_for("kube-controller-manager", lambda: client.exists(account), _READY_SECONDS)
        self.processes.wait_for("versitygw", lambda: _answers(s3.endpoint(settings)), _READY_SECONDS)
        self.processes.wait_for(prometheus.NAME, lambda: _answers(f"{prometheus.url(settings)}/-/ready"), _READY_SECONDS)

    def _start_kubelet(self) -> None:
        kubeconfig = self._kubeconfig("kubelet", f"system:node:{self.settings.node_name}")
        # Pods with dnsPolicy Default get the host's name servers; a host without any still needs the file.
        resolv_conf = Path("/etc/resolv.conf") if _host_resolv_conf() else self._config("resolv.conf", "")
        document = node.kubelet_configuration(self.settings, resolv_conf)
        configuration = self._config("kubelet.json", node.as_json(document))
        self.processes.ensure(node.kubelet(self.settings, self.toolbox.path("kubelet"), kubeconfig, configuration))

    def _kubeconfig(self, identity: str, user: str) -> Path:
        return write_kubeconfig(self.settings.configs / f"{identity}.kubeconfig", self.plane.url, self.plane.pki, identity, user)

    def _config(self, name: str, text: str) -> Path:
        path = self.settings.configs / name
        write_atomically(path, text)
        return path


def down(settings: Settings, *, keep_images: bool) -> None:
    """Stop the cluster and remove all of it; images stay unless told otherwise, because importing them takes minutes."""
    processes = processes_of(settings)
    node_tier = host.recorded(settings) is not None or containerd.root(settings).exists()
    if node_tier and os.geteuid() != 0:
        raise ClusterError("this cluster runs as root; run `down` as root")
    cleanup.stop_daemons(settings, processes)
    if node_tier:
        cleanup.clean_host(settings)
    cleanup.remove_state(settings, keep_images=keep_images)


def fake_gpus(settings: Settings, count: int) -> None:
    """Put extended resources on the node, so that pods that ask for GPUs are scheduled."""
    client = ApiClient(settings.kubeconfig)
    client.patch(f"/api/v1/nodes/{settings.node_name}/status", node.gpu_patch(count))


def listeners(settings: Settings, tier: Tier) -> list[ports.Listener]:
    """Everything that will listen, with the address it listens on."""
    local, on_node, everywhere = "127.0.0.1", str(settings.node_address), "0.0.0.0"  # noqa: S104 - what to probe
    api = [
        ("etcd", Port.ETCD, local),
        ("etcd", Port.ETCD_PEER, local),
        ("kube-apiserver", Port.API, local if tier is Tier.API else everywhere),
        ("kube-controller-manager", Port.CONTROLLERS, local),
    ]
    on_nodes = [
        ("kube-scheduler", Port.SCHEDULER, local),
        ("kubelet", Port.KUBELET, on_node),
        ("kubelet", Port.KUBELET_HEALTH, local),
        ("kube-proxy", Port.PROXY_HEALTH, local),
        ("kube-proxy", Port.PROXY_METRICS, local),
        ("coredns", Port.DNS_HEALTH, local),
        ("coredns", Port.DNS_READY, local),
        ("versitygw", Port.S3, on_node),
        (prometheus.NAME, Port.PROMETHEUS, on_node),
        (prometheus.DISCOVERY, Port.DISCOVERY, local),
    ]
    chosen = api if tier is Tier.API else [*api, *on_nodes]
    configurable = [ports.Listener(daemon, which, address, settings.port(which)) for daemon, which, address in chosen]
    dns = [] if tier is Tier.API else [ports.Listener("coredns", "cluster DNS", on_node, 53, configurable=False)]
    return [*configurable, *dns]


def _not_running(processes: Processes, wanted: list[ports.Listener]) -> list[ports.Listener]:
    return [listener for listener in wanted if not processes.find(listener.daemon)]


def _node_ready(client: ApiClient, path: str) -> bool:
    found: dict[str, object] = {}
    with contextlib.suppress(ApiError):
        found = client.get(path)
    status = found.get("status", {})
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def _answers(url: str) -> bool:
    """Whether anything but silence comes back: a refusal for lack of a signature is an answer too."""
    opener: Callable[..., object] = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        opener(url, timeout=2)
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False
    return True


def _host_resolv_conf() -> str:
    try:
        return Path("/etc/resolv.conf").read_text()
    except FileNotFoundError:
        return ""
