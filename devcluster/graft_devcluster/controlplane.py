"""Command lines and configuration of etcd, kube-apiserver, controller-manager and scheduler. Pure: paths and ports in, daemons out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from graft_devcluster.certificates import ETCD_AUTHORITY, FRONT_PROXY_AUTHORITY, Identity, Pki
from graft_devcluster.process import Daemon

AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # One line per request, when it is answered: who did what is all the tests ask.
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


@dataclass(frozen=True)
class PlanePorts:
    """What a control plane listens on."""

    api: int
    etcd: int
    etcd_peer: int
    controllers: int
    scheduler: int


@dataclass(frozen=True)
class ControlPlane:
    """Where a control plane lives and listens. ``node_address`` is None for the API tier, which has no node."""

    folder: Path
    ports: PlanePorts
    services: IPv4Network
    node_address: IPv4Address | None = None

    @property
    def pki(self) -> Pki:
        return Pki(self.folder / "pki")

    @property
    def configs(self) -> Path:
        return self.folder / "config"

    @property
    def audit_log(self) -> Path:
        return self.folder / "audit" / "audit.log"

    @property
    def address(self) -> str:
        return str(self.node_address or "127.0.0.1")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.ports.api}"


def identities(plane: ControlPlane) -> list[Identity]:
    """Who talks to whom in the control plane."""
    cluster_names = tuple(f"kubernetes{suffix}" for suffix in ("", ".default", ".default.svc", ".default.svc.cluster.local"))
    addresses = tuple(dict.fromkeys(("127.0.0.1", plane.address, str(plane.services[1]))))
    return [
        Identity("etcd", "etcd", addresses=("127.0.0.1",), authority=ETCD_AUTHORITY),
        Identity("etcd-client", "kube-apiserver", authority=ETCD_AUTHORITY),
        Identity("apiserver", "kube-apiserver", addresses=addresses, names=("localhost", *cluster_names)),
        Identity("admin", "graft-admin", ("system:masters",)),
        Identity("kubelet-client", "kube-apiserver-kubelet-client"),
        Identity("front-proxy-client", "front-proxy-client", authority=FRONT_PROXY_AUTHORITY),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
    ]


def audit_policy() -> str:
    return json.dumps(AUDIT_POLICY)


def etcd(plane: ControlPlane, binary: Path) -> Daemon:
    """A single member. Its data need not survive a power cut, so it does not wait for the disk."""
    client, peer = f"https://127.0.0.1:{plane.ports.etcd}", f"https://127.0.0.1:{plane.ports.etcd_peer}"
    pki = plane.pki
    arguments = {
        "name": "graft",
        "data-dir": plane.folder / "etcd",
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"graft={peer}",
        "unsafe-no-fsync": "true",
        "quota-backend-bytes": 4 * 2**30,
        "log-level": "warn",
        "client-cert-auth": "true",
        "cert-file": pki.certificate("etcd"),
        "key-file": pki.key("etcd"),
        "trusted-ca-file": pki.certificate(ETCD_AUTHORITY),
        "peer-client-cert-auth": "true",
        "peer-cert-file": pki.certificate("etcd"),
        "peer-key-file": pki.key("etcd"),
        "peer-trusted-ca-file": pki.certificate(ETCD_AUTHORITY),
    }
    return Daemon("etcd", (str(binary), *flags(arguments)))


def api_server(plane: ControlPlane, binary: Path) -> Daemon:
    """The API server with the admission of a default installation, node authorization and an audit log."""
    pki = plane.pki
    arguments = {
        "etcd-servers": f"https://127.0.0.1:{plane.ports.etcd}",
        "etcd-cafile": pki.certificate(ETCD_AUTHORITY),
        "etcd-certfile": pki.certificate("etcd-client"),
        "etcd-keyfile": pki.key("etcd-client"),
        # It can bind one address only. On a node, a firewall rule keeps everything but host and pods away.
        "bind-address": "0.0.0.0" if plane.node_address else "127.0.0.1",  # noqa: S104 - see above
        "secure-port": plane.ports.api,
        "advertise-address": plane.address,
        "tls-cert-file": pki.certificate("apiserver"),
        "tls-private-key-file": pki.key("apiserver"),
        "client-ca-file": pki.certificate("ca"),
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "service-cluster-ip-range": plane.services,
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": pki.folder / "service-accounts.pub",
        "service-account-signing-key-file": pki.key("service-accounts"),
        "audit-log-path": plane.audit_log,
        "audit-policy-file": plane.configs / "audit-policy.json",
        "audit-log-maxsize": 500,
        "audit-log-maxbackup": 2,
        "max-requests-inflight": 1000,
        "max-mutating-requests-inflight": 500,
        "profiling": "false",
        **_front_proxy(pki),
        **(_kubelet_access(pki) if plane.node_address else _no_node()),
    }
    return Daemon("kube-apiserver", (str(binary), *flags(arguments)), (plane.configs / "audit-policy.json",))


def controller_manager(plane: ControlPlane, binary: Path, kubeconfig: Path) -> Daemon:
    """One service account per controller, as in production: admission policies tell the Job controller from the others by it.

    Client-side rate limits are raised, or a thousand Jobs would measure them instead of the operator.
    """
    pki = plane.pki
    arguments = {
        **_component(kubeconfig, plane.ports.controllers, plane.configs / "controller-manager-serving"),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": pki.key("service-accounts"),
        "root-ca-file": pki.certificate("ca"),
        "cluster-signing-cert-file": pki.certificate("ca"),
        "cluster-signing-key-file": pki.key("ca"),
        "concurrent-job-syncs": 20,
        # It creates this folder, by default below /usr.
        "flex-volume-plugin-dir": plane.folder / "volume-plugins",
    }
    return Daemon("kube-controller-manager", (str(binary), *flags(arguments)), (kubeconfig,))


def scheduler(plane: ControlPlane, binary: Path, kubeconfig: Path) -> Daemon:
    arguments = _component(kubeconfig, plane.ports.scheduler, plane.configs / "scheduler-serving")
    return Daemon("kube-scheduler", (str(binary), *flags(arguments)), (kubeconfig,))


def flags(arguments: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in arguments.items()]


def _component(kubeconfig: Path, port: int, certificates: Path) -> dict[str, object]:
    return {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": "127.0.0.1",
        "secure-port": port,
        "cert-dir": certificates,
        "leader-elect": "false",
        "kube-api-qps": 1000,
        "kube-api-burst": 2000,
        "profiling": "false",
    }


def _front_proxy(pki: Pki) -> dict[str, object]:
    """How the API server tells extension API servers who asks. Without it the other components log an error every few seconds."""
    return {
        "requestheader-client-ca-file": pki.certificate(FRONT_PROXY_AUTHORITY),
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": pki.certificate("front-proxy-client"),
        "proxy-client-key-file": pki.key("front-proxy-client"),
    }


def _kubelet_access(pki: Pki) -> dict[str, object]:
    return {
        "kubelet-client-certificate": pki.certificate("kubelet-client"),
        "kubelet-client-key": pki.key("kubelet-client"),
        "kubelet-certificate-authority": pki.certificate("ca"),
        "kubelet-preferred-address-types": "InternalIP",
    }


def _no_node() -> dict[str, object]:
    # A loopback address is refused as the endpoint of the kubernetes Service, and nobody could reach it anyway.
    return {"endpoint-reconciler-type": "none"}
