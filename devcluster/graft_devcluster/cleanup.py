"""Taking the node tier off the host again: its own processes, mounts, rules, interfaces and cgroups, nobody else's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from graft_devcluster import containerd, host, iptables
from graft_devcluster.errors import ClusterError
from graft_devcluster.iptables import KubeProxy
from graft_devcluster.process import Processes, start_time
from graft_devcluster.settings import Settings

# What keeps the others alive goes first, what the others need goes last.
_STOP_ORDER = (
    "kuberay-operator",
    "kubelet",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-proxy",
    "coredns",
    "versitygw",
    "kube-apiserver",
    "etcd",
)


def stop_daemons(settings: Settings, processes: Processes) -> None:
    """Stop every daemon; containers are removed in between, while containerd can still do it properly."""
    for name in _STOP_ORDER:
        processes.stop(name)
    if containerd.root(settings).exists() and os.geteuid() == 0:
        remove_containers(settings, processes)
    for name in processes.names():
        processes.stop(name)
    kill_strays(settings)


def remove_containers(settings: Settings, processes: Processes) -> None:
    """Forget all containers but no image. containerd is started for it if it died: its database survives the cluster."""
    containerd.ensure_running(settings, processes)
    kill_pods(settings)
    containers = containerd.ctr(settings, "containers", "ls", "-q")
    if containers:
        # A container without a task makes this fail for that one only; the next command speaks for all of them.
        with contextlib.suppress(ClusterError):
            containerd.ctr(settings, "tasks", "rm", "--force", *containers)
        containerd.ctr(settings, "containers", "rm", *containers)


def kill_pods(settings: Settings) -> None:
    """Kill whatever runs in the cluster's cgroups: a pod's process cannot leave them."""
    # Unlike a glob, os.walk takes no offence at a cgroup that vanishes under its hands.
    for folder in (Path(path) for root in host.cgroup_folders(settings) for path, _, _ in os.walk(root)):
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                _kill(int(pid))


def kill_strays(settings: Settings) -> None:
    """Kill daemons and shims that lost their pid file, recognised by their program and by this cluster's paths."""
    strays = own_processes(_command_lines(), settings)
    for pid in strays:
        _kill(pid)
    deadline = time.monotonic() + 5
    while any(start_time(pid) is not None for pid in strays) and time.monotonic() < deadline:
        time.sleep(0.05)


def own_processes(command_lines: Mapping[int, list[str]], settings: Settings) -> list[int]:
    """Processes that are this cluster's: one of its programs, given one of its paths. An editor on its log is neither."""
    programs = {*_STOP_ORDER, "containerd", "containerd-shim-runc-v2"}
    marks = (f"{settings.state}/", f"{settings.run}/")
    return [
        pid
        for pid, argv in command_lines.items()
        if argv and Path(argv[0]).name in programs and any(mark in argument for mark in marks for argument in argv[1:])
    ]


def clean_host(settings: Settings) -> None:
    """Undo what was done to the host. Every step leaves alone what it does not recognise, and can be repeated."""
    unmount_all(settings)
    remove_rules(settings)
    remove_interfaces(settings)
    remove_cgroups(settings)
    remove_traces(settings)
    restore_sysctls(settings)
    shutil.rmtree(settings.run, ignore_errors=True)


def unmount_all(settings: Settings) -> None:
    for target in own_mounts(Path("/proc/self/mounts").read_text(), settings):
        host.run("umount", "--lazy", target, check=False)


def own_mounts(mounts: str, settings: Settings) -> list[str]:
    """Mount points below the cluster's folders, the innermost first."""
    targets = [line.split()[1].encode().decode("unicode_escape") for line in mounts.splitlines()]
    return [target for target in reversed(targets) if target.startswith((f"{settings.state}/", f"{settings.run}/"))]


def remove_rules(settings: Settings) -> None:
    """Remove our chains. The KUBE- chains are ours unless they name Services of another network."""
    before = host.recorded(settings)
    kube_chains = before is not None and iptables.kube_proxy(host.saved_rules("iptables"), settings.network) is not KubeProxy.FOREIGN
    for family in host.FAMILIES:
        known = before.chains.get(family, []) if before else []
        text = iptables.removal(host.saved_rules(family), settings, kube_chains=kube_chains, before=known)
        if text:
            host.run(f"{family}-restore", "--noflush", "--wait", text=text)


def remove_interfaces(settings: Settings) -> None:
    """The two bridges and what is plugged into them."""
    ports = Path("/sys/class/net", settings.pod_bridge, "brif")
    plugged = [port.name for port in ports.iterdir()] if ports.exists() else []
    for interface in (*plugged, settings.pod_bridge, settings.node_bridge):
        if Path("/sys/class/net", interface).exists():
            host.run("ip", "link", "delete", interface, check=False)


def remove_cgroups(settings: Settings) -> None:
    """Remove the cgroups bottom-up. A killed process may take a moment to leave, so this tries for a while."""
    deadline = time.monotonic() + 5
    for folder in host.cgroup_folders(settings):
        while folder.exists() and time.monotonic() < deadline:
            kill_pods(settings)
            for path, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
            if folder.exists():
                time.sleep(0.05)


def remove_traces(settings: Settings) -> None:
    """Files at places compiled into the programs: only this cluster's, and the folders only if it brought them."""
    results = Path("/var/lib/cni/results")
    for name in own_cni_results([path.name for path in results.glob("*")], settings):
        (results / name).unlink()
    for link in Path("/var/log/containers").glob("*.log"):
        if link.is_symlink() and str(link.readlink()).startswith(f"{settings.state}/"):
            link.unlink()
    before = host.recorded(settings)
    absent = before.absent_folders if before else []
    if "/var/lib/kubelet" in absent:
        shutil.rmtree("/var/lib/kubelet/device-plugins", ignore_errors=True)
    if "/run/containerd/s" in absent:
        for path in Path("/run/containerd/s").glob("*"):
            if is_dead_socket(path):
                path.unlink()
    for folder in absent:
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def is_dead_socket(path: Path) -> bool:
    """A socket file that nobody listens on any more: what a shim leaves behind when it is killed."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False


def own_cni_results(names: Collection[str], settings: Settings) -> list[str]:
    """Cached results of our pod network, and those of the loopback network, which has one name for everybody, by the same pods."""
    pods = {found[1] for name in names if (found := re.fullmatch(rf"{settings.cni_network}-([0-9a-f]+)-eth0", name))}
    return [name for name in names if any(name in (f"{settings.cni_network}-{pod}-eth0", f"cni-loopback-{pod}-lo") for pod in pods)]


def restore_sysctls(settings: Settings) -> None:
    before = host.recorded(settings)
    for name, value in (before.sysctls if before else {}).items():
        if host.read_sysctl(name) not in (value, None):
            host.write_sysctl(name, value)


def remove_state(settings: Settings, *, keep_images: bool) -> None:
    """Remove the state folder, last of all, because the record of how the host was lies in it."""
    kept = {containerd.root(settings).name} if keep_images else set()
    for path in settings.state.iterdir() if settings.state.exists() else ():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    with contextlib.suppress(OSError):
        settings.state.rmdir()


def _command_lines() -> dict[int, list[str]]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
