"""What the node tier changes on the host itself, remembered before it is changed, so that `down` can put it back."""

from __future__ import annotations

import contextlib
import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from graft_devcluster import iptables
from graft_devcluster.errors import ClusterError
from graft_devcluster.process import write_atomically
from graft_devcluster.settings import Settings

_NEEDED_SYSCTLS = {"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1"}
# kubelet and kube-proxy write these at start; they are only remembered.
_TOUCHED_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
)
# Folders whose place is compiled into kubelet, containerd or the CNI library.
_FIXED_FOLDERS = (
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/run/containerd/s",
    "/run/containerd",
)
FAMILIES = ("iptables", "ip6tables")


@dataclass(frozen=True)
class Before:
    """The host as it was before the cluster: kernel settings, firewall chains, and fixed folders that were absent."""

    boot: str
    sysctls: dict[str, str] = field(default_factory=dict)
    chains: dict[str, list[str]] = field(default_factory=dict)
    absent_folders: list[str] = field(default_factory=list)


def remember(settings: Settings) -> Before:
    """Take the snapshot once per boot; a later `up` must not take the cluster's own traces for the host's."""
    known = recorded(settings)
    if known and known.boot == _boot():
        return known
    before = Before(
        _boot(),
        {name: value for name in (*_NEEDED_SYSCTLS, *_TOUCHED_SYSCTLS) if (value := read_sysctl(name)) is not None},
        {family: iptables.chains(saved_rules(family)) for family in FAMILIES},
        [folder for folder in _FIXED_FOLDERS if not Path(folder).exists()] if not known else known.absent_folders,
    )
    write_atomically(_record(settings), json.dumps(asdict(before), indent=1))
    return before


def recorded(settings: Settings) -> Before | None:
    try:
        return Before(**json.loads(_record(settings).read_text()))
    except FileNotFoundError:
        return None


def prepare(settings: Settings) -> None:
    """Kernel settings, cgroups, the node's address and the firewall chains; each only where it is not as it should be."""
    for module in ("overlay", "br_netfilter"):
        # Often built in, or loaded already; what really is needed shows in the settings below.
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["modprobe", "-q", module], capture_output=True, check=False)
    for name, value in _NEEDED_SYSCTLS.items():
        if read_sysctl(name) is None:
            raise ClusterError(f"/proc/sys/{name} is missing: load the kernel module br_netfilter, or use a kernel that has it built in")
        if read_sysctl(name) != value:
            write_sysctl(name, value)
    for folder in cgroup_folders(settings):
        _make_cgroup(folder)
    _ensure_node_address(settings)
    _ensure_firewall(settings)


def cgroup_mounts(mounts: str) -> list[tuple[Path, bool]]:
    """(mount point, is version 2) of every cgroup hierarchy in the text of /proc/mounts."""
    fields = [line.split() for line in mounts.splitlines()]
    return [(Path(where), kind == "cgroup2") for _, where, kind, *_ in fields if kind in ("cgroup", "cgroup2")]


def cgroup_folders(settings: Settings) -> list[Path]:
    mounts = cgroup_mounts(Path("/proc/mounts").read_text())
    return [where / settings.cgroup for where, _ in mounts]


def run(*command: str, check: bool = True, text: str | None = None) -> str:
    """Run a program of the host; its own words are the error message."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def saved_rules(family: str) -> str:
    return run(f"{family}-save", check=family == "iptables")


def read_sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return None


def write_sysctl(name: str, value: str) -> None:
    try:
        Path("/proc/sys", name).write_text(value)
    except OSError as error:
        raise ClusterError(f"cannot set /proc/sys/{name} to {value}: {error.strerror}") from error


def _make_cgroup(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    if (folder.parent / "cgroup.subtree_control").exists():
        for level in (folder.parent, folder):
            controllers = (level / "cgroup.controllers").read_text().split()
            # A controller that refuses (busy in a version 1 hierarchy, say) is one the kubelet cannot use either way.
            for controller in controllers:
                with contextlib.suppress(OSError):
                    (level / "cgroup.subtree_control").write_text(f"+{controller}")
    for name in ("cpuset.cpus", "cpuset.mems"):
        # Version 1 only: a new cpuset is empty, and no process can enter it.
        if (folder / name).exists() and not (folder / "cgroup.controllers").exists():
            (folder / name).write_text((folder.parent / name).read_text())


def _ensure_node_address(settings: Settings) -> None:
    """A bridge without ports: the only kind of virtual interface that every kernel with containers has."""
    bridge, address = settings.node_bridge, f"{settings.node_address}/24"
    if not Path("/sys/class/net", bridge).exists():
        run("ip", "link", "add", bridge, "type", "bridge")
    if str(settings.node_address) not in run("ip", "-4", "addr", "show", "dev", bridge):
        run("ip", "addr", "add", address, "dev", bridge)
    run("ip", "link", "set", bridge, "up")


def _ensure_firewall(settings: Settings) -> None:
    saved = iptables.parse(saved_rules("iptables"))
    present = {chain for table in saved for chain in table.chains}
    if not set(iptables.own_chains(settings)) <= present:
        run("iptables-restore", "--noflush", "--wait", text=iptables.additions(settings))
    for command, builtin, chain in iptables.jumps(settings):
        if not any(rule == f"-A {builtin} -j {chain}" for table in saved for rule in table.rules):
            run("iptables", "--wait", command, builtin, "-j", chain)


def _record(settings: Settings) -> Path:
    return settings.state / "host.json"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
