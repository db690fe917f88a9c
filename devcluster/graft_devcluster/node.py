"""Configuration and command lines of what runs on a node: kubelet, kube-proxy, CoreDNS and the pod network."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graft_devcluster import containerd
from graft_devcluster.certificates import Identity, Pki
from graft_devcluster.controlplane import flags
from graft_devcluster.process import Daemon
from graft_devcluster.settings import Port, Settings

GPU = "nvidia.com/gpu"


def identities(settings: Settings) -> list[Identity]:
    """The kubelet is a member of system:nodes, which the node authorizer limits to its own node and pods."""
    return [
        Identity("kubelet", f"system:node:{settings.node_name}", ("system:nodes",), (str(settings.node_address),), (settings.node_name,)),
        Identity("kube-proxy", "system:kube-proxy"),
        Identity("coredns", "system:coredns"),
    ]


def kubelet_configuration(settings: Settings, resolv_conf: Path) -> dict[str, Any]:
    """The kubelet's configuration file.

    Image garbage collection is off (100 %): it would remove images nobody runs at the moment, in the middle of an
    import. Eviction thresholds are low, because the host's disk is everybody's.
    """
    pki = Pki(settings.pki)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(settings.node_address),
        "port": settings.port(Port.KUBELET),
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": settings.port(Port.KUBELET_HEALTH),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.certificate("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki.certificate("kubelet")),
        "tlsPrivateKeyFile": str(pki.key("kubelet")),
        "containerRuntimeEndpoint": f"unix://{containerd.socket(settings)}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{settings.cgroup}",
        "clusterDNS": [str(settings.node_address)],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv_conf),
        "failSwapOn": False,
        "failCgroupV1": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "maxPods": 250,
        "serializeImagePulls": False,
        "podLogsDir": str(settings.state / "pod-logs"),
        "volumePluginDir": str(settings.state / "kubelet" / "volume-plugins"),
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
    }


def kubelet(settings: Settings, binary: Path, kubeconfig: Path, configuration: Path) -> Daemon:
    arguments: dict[str, object] = {
        "config": configuration,
        "kubeconfig": kubeconfig,
        "hostname-override": settings.node_name,
        "node-ip": settings.node_address,
        "root-dir": settings.state / "kubelet",
        "cert-dir": settings.state / "kubelet" / "pki",
    }
    return Daemon("kubelet", (str(binary), *flags(arguments)), (configuration, kubeconfig))


def kube_proxy_configuration(settings: Settings, kubeconfig: Path) -> dict[str, Any]:
    """kube-proxy's configuration file. Zeros for conntrack and false for localhost ports leave the host's settings alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": settings.node_name,
        "mode": "iptables",
        "iptables": {"localhostNodePorts": False, "minSyncPeriod": "0s", "syncPeriod": "30s"},
        "nodePortAddresses": ["primary"],
        "clusterCIDR": str(settings.pod_network),
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": f"127.0.0.1:{settings.port(Port.PROXY_HEALTH)}",
        "metricsBindAddress": f"127.0.0.1:{settings.port(Port.PROXY_METRICS)}",
        "oomScoreAdj": 0,
    }


def kube_proxy(binary: Path, configuration: Path, kubeconfig: Path) -> Daemon:
    return Daemon("kube-proxy", (str(binary), f"--config={configuration}"), (configuration, kubeconfig))


def cni_configuration(settings: Settings) -> dict[str, Any]:
    """The pod network: a bridge with masquerading, addresses from files under the state folder, host ports."""
    bridge = {
        "type": "bridge",
        "bridge": settings.pod_bridge,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(settings.state / "pod-addresses"),
            "ranges": [[{"subnet": str(settings.pod_network)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": settings.cni_network, "plugins": [bridge, portmap]}


def loopback_configuration() -> dict[str, Any]:
    return {"cniVersion": "0.4.0", "name": "lo", "type": "loopback"}


def corefile(settings: Settings, kubeconfig: Path, upstreams: Iterable[str]) -> str:
    """Cluster DNS on the node's address. Without upstream servers there is nothing to forward to: unknown names do not exist."""
    servers = " ".join(upstreams)
    forward = [f"    forward . {servers}"] if servers else []
    lines = [
        ".:53 {",
        f"    bind {settings.node_address}",
        "    errors",
        f"    health 127.0.0.1:{settings.port(Port.DNS_HEALTH)}",
        f"    ready 127.0.0.1:{settings.port(Port.DNS_READY)}",
        "    kubernetes cluster.local in-addr.arpa {",
        f"        kubeconfig {kubeconfig}",
        "        pods insecure",
        "        fallthrough in-addr.arpa",
        "        ttl 5",
        "    }",
        *forward,
        "    cache 5",
        "}",
    ]
    return "\n".join(lines) + "\n"


def coredns(binary: Path, corefile_path: Path, kubeconfig: Path) -> Daemon:
    return Daemon("coredns", (str(binary), "-conf", str(corefile_path)), (corefile_path, kubeconfig))


def upstream_servers(resolv_conf: str) -> list[str]:
    """The name servers of the host, from the text of its resolv.conf."""
    fields = (line.split() for line in resolv_conf.splitlines())
    return [words[1] for words in fields if len(words) > 1 and words[0] == "nameserver"]


def gpu_patch(count: int) -> dict[str, Any]:
    """A merge patch of a node's status; the kubelet keeps resources it does not know."""
    return {"status": {"capacity": {GPU: str(count)}, "allocatable": {GPU: str(count)}}}


def as_json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1)
