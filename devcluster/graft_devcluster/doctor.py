"""Will a cluster run here? Every prerequisite with what to do about it; nothing is changed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from graft_devcluster import cluster, host, iptables, packages, ports, tools
from graft_devcluster.errors import ClusterError
from graft_devcluster.settings import Settings, Tier

_GIBIBYTE = 2**30
_DISK_GIB = {Tier.API: 4, Tier.NODE: 15}
_MEMORY_GIB = {Tier.API: 1, Tier.NODE: 3}
_SOCKET_PATH_LIMIT = 107


class Verdict(StrEnum):
    """What a check found."""

    OK = "ok"
    WARN = "warn"
    """It will probably work, or `up` sees to it."""
    FAIL = "FAIL"
    """`up` cannot work before something is done."""


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was checked, how it is, and what to do if it is not well."""

    subject: str
    verdict: Verdict
    detail: str


def examine(settings: Settings, tier: Tier) -> list[Finding]:
    """Check everything this tier needs, in the order in which `up` would stumble over it."""
    checks: list[Callable[[Settings, Tier], Finding]] = [check_go, check_disk, check_memory, check_ports]
    if tier is Tier.NODE:
        checks = [check_root, check_packages, *checks, check_cgroups, check_kernel, check_network, check_paths]
    else:
        checks = [check_programs, *checks]
    return [check(settings, tier) for check in checks]


def check_root(settings: Settings, tier: Tier) -> Finding:
    if os.geteuid() == 0:
        return Finding("root", Verdict.OK, "running as root")
    return Finding("root", Verdict.FAIL, "the node tier needs root; run as root, or use `up --tier api`")


def check_packages(settings: Settings, tier: Tier) -> Finding:
    absent = [package.name for package in packages.missing()]
    release = packages.debian_release()
    if not absent:
        return Finding("packages", Verdict.OK, "all there")
    if release == "12":
        return Finding("packages", Verdict.WARN, f"`up` will install: {' '.join(absent)}")
    return Finding("packages", Verdict.FAIL, f"install what provides: {' '.join(absent)} (done automatically on Debian 12 only)")


def check_programs(settings: Settings, tier: Tier) -> Finding:
    absent = [name for name in packages.API_TIER_PROGRAMS if shutil.which(name) is None]
    if absent:
        return Finding("programs", Verdict.FAIL, f"install: {' '.join(absent)} (Debian packages openssl, util-linux)")
    return Finding("programs", Verdict.OK, "openssl and setpriv are there")


def check_go(settings: Settings, tier: Tier) -> Finding:
    """Go is needed to build what KUBEBUILDER_ASSETS does not provide, and to know which build is the right one."""
    provided = [name for name in tools.API_TIER if Path(os.environ.get("KUBEBUILDER_ASSETS", "/nonexistent"), name).exists()]
    if tier is Tier.API and {"etcd", "kube-apiserver"} <= set(provided):
        return Finding("go", Verdict.OK, f"not needed: KUBEBUILDER_ASSETS has {' and '.join(provided)}")
    try:
        version = tools.go_version().split()[0]
    except ClusterError as error:
        return Finding("go", Verdict.FAIL, str(error))
    wanted = tools.API_TIER if tier is Tier.API else tools.NODE_TIER
    missing = tools.Toolbox(settings.cache).missing(wanted)
    if not missing:
        return Finding("go", Verdict.OK, f"{version}; every program is built")
    if older_than_121(version):
        return Finding("go", Verdict.FAIL, f"{version} cannot fetch the toolchain that the modules ask for; install Go 1.21 or newer")
    return Finding("go", Verdict.WARN, f"{version}; {len(missing)} programs will be built, which takes several minutes of CPU time")


def older_than_121(version: str) -> bool:
    found = re.match(r"go(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) < (1, 21)


def check_disk(settings: Settings, tier: Tier) -> Finding:
    existing = next(folder for folder in (settings.cache, *settings.cache.parents) if folder.exists())
    free, needed = shutil.disk_usage(existing).free / _GIBIBYTE, _DISK_GIB[tier]
    if free >= needed:
        return Finding("disk", Verdict.OK, f"{free:.0f} GiB free at {existing}")
    detail = f"{free:.1f} GiB free at {existing}, {needed} GiB are advisable; free some, or set GRAFT_CACHE to a larger disk"
    return Finding("disk", Verdict.WARN, detail)


def check_memory(settings: Settings, tier: Tier) -> Finding:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free, needed = int(fields["MemAvailable"].split()[0]) / 2**20, _MEMORY_GIB[tier]
    if free >= needed:
        return Finding("memory", Verdict.OK, f"{free:.1f} GiB available")
    return Finding("memory", Verdict.WARN, f"{free:.1f} GiB available, {needed} GiB are advisable; stop something")


def check_ports(settings: Settings, tier: Tier) -> Finding:
    processes = cluster.processes_of(settings)
    wanted = [listener for listener in cluster.listeners(settings, tier) if not processes.find(listener.daemon)]
    try:
        ports.require_free(wanted)
    except ClusterError as error:
        return Finding("ports", Verdict.FAIL, str(error).replace("\n", "; "))
    return Finding("ports", Verdict.OK, f"free or ours, from {settings.port_base} up" + (" and 53" if tier is Tier.NODE else ""))


def check_cgroups(settings: Settings, tier: Tier) -> Finding:
    mounts = host.cgroup_mounts(Path("/proc/mounts").read_text())
    if not mounts:
        return Finding("cgroups", Verdict.FAIL, "no cgroup hierarchy is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup")
    if not any(os.access(where, os.W_OK) and not os.statvfs(where).f_flag & os.ST_RDONLY for where, _ in mounts):
        return Finding(
            "cgroups", Verdict.FAIL, "cgroups are read-only here; in a container, run it privileged with its own cgroup namespace"
        )
    versions = sorted({"v2" if second else "v1" for _, second in mounts})
    return Finding("cgroups", Verdict.OK, " and ".join(versions))


def check_kernel(settings: Settings, tier: Tier) -> Finding:
    problems = []
    if "overlay" not in Path("/proc/filesystems").read_text() and not _loadable("overlay"):
        problems.append("overlay file system (modprobe overlay)")
    if host.read_sysctl("net/bridge/bridge-nf-call-iptables") is None and not _loadable("br_netfilter"):
        problems.append("bridge netfilter (modprobe br_netfilter)")
    if problems:
        return Finding("kernel", Verdict.FAIL, f"missing: {', '.join(problems)}")
    return Finding("kernel", Verdict.OK, "overlay and bridge netfilter")


def check_network(settings: Settings, tier: Tier) -> Finding:
    """Another Kubernetes, or a route into our addresses, would make packets go astray."""
    rules = host.saved_rules("iptables") if shutil.which("iptables-save") and os.geteuid() == 0 else ""
    if iptables.kube_proxy(rules, settings.network) is iptables.KubeProxy.FOREIGN:
        return Finding("network", Verdict.FAIL, "another Kubernetes runs kube-proxy on this host; stop it")
    routes = host.run("ip", "-4", "route", "show", "root", str(settings.network), check=False) if shutil.which("ip") else ""
    foreign = [line for line in routes.splitlines() if settings.node_bridge not in line and settings.pod_bridge not in line]
    if foreign:
        return Finding("network", Verdict.FAIL, f"{settings.network} is in use ({foreign[0].strip()}); choose another with --network")
    return Finding("network", Verdict.OK, f"{settings.network} is free or ours")


def check_paths(settings: Settings, tier: Tier) -> Finding:
    """The kubelet puts sockets under the state folder, and the kernel limits the length of a socket's path."""
    longest = settings.state / "kubelet" / "plugins_registry" / ("x" * 30)
    if len(str(longest)) > _SOCKET_PATH_LIMIT:
        return Finding("paths", Verdict.FAIL, f"{settings.state} is too long a path for sockets; set GRAFT_CACHE to a shorter one")
    return Finding("paths", Verdict.OK, str(settings.state))


def _loadable(module: str) -> bool:
    if shutil.which("modprobe") is None:
        return False
    return subprocess.run(["modprobe", "--dry-run", "-q", module], capture_output=True, check=False).returncode == 0
