"""What a cluster is called, where it keeps its files, which addresses and ports it uses.

Everything else is derived from four values, so that two clusters on one host differ in exactly these.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from pathlib import Path

from graft_devcluster.errors import ClusterError

DEFAULT_NAME = "dev"
DEFAULT_PORT_BASE = 16400
DEFAULT_NETWORK = "10.212.0.0/16"

# Linux limits an interface name to 15 characters and the longest prefix used here has 5.
_NAME = re.compile(r"[a-z][a-z0-9]{0,9}")


class Tier(StrEnum):
    """How much of a cluster to run."""

    API = "api"
    """etcd, kube-apiserver and kube-controller-manager; needs no root."""
    NODE = "node"
    """The whole cluster with a kubelet, containerd, cluster DNS and S3; needs root."""


class Port(StrEnum):
    """Everything that listens, named as in ``port(...)`` and in messages about occupied ports."""

    API = "kube-apiserver"
    ETCD = "etcd"
    ETCD_PEER = "etcd peer"
    CONTROLLERS = "kube-controller-manager"
    SCHEDULER = "kube-scheduler"
    KUBELET = "kubelet"
    KUBELET_HEALTH = "kubelet health"
    PROXY_HEALTH = "kube-proxy health"
    PROXY_METRICS = "kube-proxy metrics"
    DNS_HEALTH = "coredns health"
    DNS_READY = "coredns ready"
    S3 = "versitygw"
    PROMETHEUS = "prometheus"
    DISCOVERY = "prometheus-discovery"
    EMBEDDINGS = "embeddings"
    KUBERAY_METRICS = "kuberay metrics"
    KUBERAY_HEALTH = "kuberay health"


_OFFSETS: Mapping[Port, int] = {
    Port.API: 43,
    Port.ETCD: 1,
    Port.ETCD_PEER: 2,
    Port.CONTROLLERS: 3,
    Port.SCHEDULER: 4,
    Port.KUBELET: 5,
    Port.KUBELET_HEALTH: 6,
    Port.PROXY_HEALTH: 7,
    Port.PROXY_METRICS: 8,
    Port.DNS_HEALTH: 9,
    Port.DNS_READY: 10,
    Port.S3: 70,
    Port.PROMETHEUS: 71,
    Port.DISCOVERY: 72,
    Port.EMBEDDINGS: 73,
    Port.KUBERAY_METRICS: 80,
    Port.KUBERAY_HEALTH: 81,
}


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for everything that can be made again: built programs and cluster state."""
    if explicit := environ.get("GRAFT_CACHE"):
        return Path(explicit)
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"


@dataclass(frozen=True)
class Settings:
    """One cluster. Paths and addresses are properties: they follow from the fields and are never stored."""

    name: str
    cache: Path
    port_base: int
    network: IPv4Network

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ClusterError(f"cluster name {self.name!r}: use 1 to 10 lower-case letters and digits, starting with a letter")
        if not 1024 <= self.port_base <= 65000:
            raise ClusterError(f"port base {self.port_base}: choose one from 1024 to 65000")
        if self.network.prefixlen > 16:
            raise ClusterError(f"network {self.network}: a /16 or larger is needed for node, pods and services")

    @property
    def state(self) -> Path:
        return self.cache / "cluster" / self.name

    @property
    def run(self) -> Path:
        """Sockets and runtime state of containerd. Short, because a socket's path may have 107 characters at most."""
        return Path(f"/run/graft-{self.name}")

    @property
    def record(self) -> Path:
        return self.state / "settings.json"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def configs(self) -> Path:
        return self.state / "config"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.state / "audit" / "audit.log"

    @property
    def node_name(self) -> str:
        return f"graft-{self.name}"

    @property
    def cgroup(self) -> str:
        """The cgroup that holds every pod of this cluster, in each hierarchy of the host."""
        return f"graft-{self.name}"

    @property
    def node_bridge(self) -> str:
        return f"gft-{self.name}"

    @property
    def pod_bridge(self) -> str:
        return f"gftp-{self.name}"

    @property
    def cni_network(self) -> str:
        return f"graft-{self.name}"

    @property
    def node_address(self) -> IPv4Address:
        return self.network[1]

    @property
    def pod_network(self) -> IPv4Network:
        """The second /22: room for 1,000 pods, next to the node's own /24."""
        return list(IPv4Network((self.network[0], 20)).subnets(new_prefix=22))[1]

    @property
    def service_network(self) -> IPv4Network:
        return IPv4Network((self.network[0] + 0x8000, 17))

    def port(self, which: Port) -> int:
        return self.port_base + _OFFSETS[which]


def requested(name: str | None, port_base: int | None, network: str | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a cluster: what it was started with if it has state, else flags, environment and defaults.

    Raises ClusterError where a flag contradicts a cluster that already has state.
    """
    chosen = name or environ.get("GRAFT_CLUSTER_NAME") or DEFAULT_NAME
    wanted_base = port_base or _port_base(environ.get("GRAFT_CLUSTER_PORT_BASE"))
    wanted_network = network or environ.get("GRAFT_CLUSTER_NETWORK")
    fresh = Settings(chosen, cache_root(environ), wanted_base or DEFAULT_PORT_BASE, _network(wanted_network or DEFAULT_NETWORK))
    existing = _recorded(fresh)
    if existing is None:
        return fresh
    asked = replace(existing, port_base=wanted_base or existing.port_base, network=_network(wanted_network or str(existing.network)))
    if asked != existing:
        raise ClusterError(
            f"cluster {chosen!r} was started with port base {existing.port_base} and network {existing.network}; "
            "run `down` first, or choose another --name"
        )
    return existing


def remember(settings: Settings, tier: Tier) -> None:
    """Write down what the cluster was started with, so that later verbs need no flags.

    Raises ClusterError where the cluster runs as another tier.
    """
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    if recorded_tier(settings) not in (None, tier):
        raise ClusterError(f"cluster {settings.name!r} runs as tier {recorded_tier(settings)}; run `down` first, or choose another --name")
    record = {"port_base": settings.port_base, "network": str(settings.network), "tier": tier}
    settings.record.write_text(json.dumps(record))


def recorded_tier(settings: Settings) -> Tier | None:
    """What runs, or ran until a crash; None after `down`."""
    try:
        return Tier(json.loads(settings.record.read_text())["tier"])
    except FileNotFoundError:
        return None


def _recorded(fresh: Settings) -> Settings | None:
    try:
        record = json.loads(fresh.record.read_text())
    except FileNotFoundError:
        return None
    return replace(fresh, port_base=int(record["port_base"]), network=IPv4Network(record["network"]))


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise ClusterError(f"network {text!r}: {error}") from error


def _port_base(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdigit():
        raise ClusterError(f"GRAFT_CLUSTER_PORT_BASE={text!r}: a number from 1024 to 65000 is needed")
    return int(text)
