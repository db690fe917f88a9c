"""Firewall rules: the two chains this cluster adds, and which of the rules on a host are its own to remove.

Everything here is pure: `iptables-save` text in, `iptables-restore` text out. kube-proxy and the CNI plugins write
their rules into the same tables as anybody else's, so what is removed is selected by evidence, never by table.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network

from graft_devcluster.settings import Port, Settings

_TARGET = re.compile(r" -[jg] (\S+)")
_SERVICE_ADDRESS = re.compile(r"^-A KUBE-SERVICES -d (\d+\.\d+\.\d+\.\d+)/32 ")
_HOSTPORT_CHAINS = ("CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK")


class KubeProxy(Enum):
    """Whose kube-proxy wrote the KUBE- chains of this host. Two cannot share a host."""

    NONE = auto()
    """There are none that name a Service address."""
    OURS = auto()
    """All Service addresses lie in this cluster's network."""
    FOREIGN = auto()
    """Some lie elsewhere: another Kubernetes runs on this host."""


@dataclass(frozen=True)
class Rules:
    """What `iptables-save` says about one table."""

    table: str
    chains: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def of(self, chain: str) -> list[str]:
        return [rule for rule in self.rules if rule.startswith(f"-A {chain} ")]


def parse(saved: str) -> list[Rules]:
    tables: list[Rules] = []
    for line in saved.splitlines():
        if line.startswith("*"):
            tables.append(Rules(line[1:]))
        elif line.startswith(":"):
            tables[-1].chains.append(line[1:].split()[0])
        elif line.startswith("-A "):
            tables[-1].rules.append(line)
    return tables


def kube_proxy(saved: str, network: IPv4Network) -> KubeProxy:
    addresses = [IPv4Address(found[1]) for line in saved.splitlines() if (found := _SERVICE_ADDRESS.match(line))]
    if not addresses:
        return KubeProxy.NONE
    return KubeProxy.OURS if all(address in network for address in addresses) else KubeProxy.FOREIGN


def additions(settings: Settings) -> str:
    """Two chains: nobody but this host and its pods reaches the node's ports, and pods' packets may be forwarded.

    The second is needed where the host drops forwarded packets by default, as it does once Docker was installed.
    Declaring a chain empties it, so this can be applied again; `jumps` are added separately, where they are missing.
    """
    incoming, forwarded = own_chains(settings)
    trusted = ("lo", settings.node_bridge, settings.pod_bridge)
    ports = f"{settings.port(Port.API)},{settings.port(Port.KUBELET)}"
    lines = [
        "*filter",
        f":{incoming} - [0:0]",
        f":{forwarded} - [0:0]",
        *(f"-A {incoming} -i {interface} -j RETURN" for interface in trusted),
        f"-A {incoming} -p tcp -m multiport --dports {ports} -j DROP",
        f"-A {forwarded} -i {settings.pod_bridge} -j ACCEPT",
        f"-A {forwarded} -o {settings.pod_bridge} -j ACCEPT",
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def jumps(settings: Settings) -> list[tuple[str, str, str]]:
    """How the built-in chains lead into ours: (command, built-in chain, our chain).

    Ours comes first on INPUT and last on FORWARD: there kube-proxy's rule that rejects connections to a Service
    without endpoints must be seen before ours accepts, or clients would hang instead.
    """
    incoming, forwarded = own_chains(settings)
    return [("-I", "INPUT", incoming), ("-A", "FORWARD", forwarded)]


def own_chains(settings: Settings) -> tuple[str, str]:
    name = settings.name.upper()
    return f"GRAFT-{name}-IN", f"GRAFT-{name}-FORWARD"


def removal(saved: str, settings: Settings, *, kube_chains: bool, before: Collection[str] = ()) -> str:
    """`iptables-restore --noflush` text that removes this cluster's chains and the jumps into them, or nothing.

    ``kube_chains``: the KUBE- chains are ours. ``before``: chains ("table/NAME") that were there before the cluster.
    Built-in chains stay behind, empty and accepting: the first use of a table makes them, and iptables cannot remove them.
    """
    parts = []
    for table in parse(saved):
        own = {chain for chain in _own(table, settings, kube_chains) if f"{table.table}/{chain}" not in before}
        if own:
            leading_in = [rule for rule in table.rules if _target(rule) in own and rule.split()[1] not in own]
            deletions = [f"-D {rule.removeprefix('-A ')}" for rule in leading_in]
            emptied = [f"-F {chain}" for chain in sorted(own)]
            removed = [f"-X {chain}" for chain in sorted(own)]
            parts.append("\n".join([f"*{table.table}", *deletions, *emptied, *removed, "COMMIT", ""]))
    return "".join(parts)


def chains(saved: str) -> list[str]:
    """Every chain as "table/NAME", to remember what was there before."""
    return [f"{table.table}/{chain}" for table in parse(saved) for chain in table.chains]


def _own(table: Rules, settings: Settings, kube_chains: bool) -> set[str]:
    ours = f'name: \\"{settings.cni_network}\\" id: '
    own = {chain for chain in table.chains if chain in own_chains(settings)}
    own |= {target for rule in table.rules if ours in rule and (target := _target(rule)) and target.startswith("CNI-")}
    own -= set(_HOSTPORT_CHAINS)
    if kube_chains:
        own |= {chain for chain in table.chains if chain.startswith("KUBE-")}
    # Shared by every user of the portmap plugin: they go with the last port mapping.
    if all(_target(rule) in own for rule in table.of("CNI-HOSTPORT-DNAT")):
        own |= {chain for chain in table.chains if chain in _HOSTPORT_CHAINS}
    return own


def _target(rule: str) -> str | None:
    found = _TARGET.search(rule)
    return found[1] if found else None
