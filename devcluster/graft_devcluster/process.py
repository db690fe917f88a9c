"""Daemons as plain detached processes with pid files that survive crashes and reboots without lying.

A pid alone is not an identity: after a reboot or a crash the same number may belong to anybody. The file therefore
also holds the boot id and the process's start time, and a fingerprint of what it was started with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graft_devcluster.errors import ClusterError

_POLL = 0.05


@dataclass(frozen=True)
class Daemon:
    """A program to keep running: what to start and the files it reads once at start."""

    name: str
    argv: tuple[str, ...]
    inputs: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    inherited: Mapping[str, str] = field(default_factory=dict)
    """Environment that differs from caller to caller and is no reason for a restart."""

    def fingerprint(self) -> str:
        """Changes when a restart is needed: other flags, another binary, another configuration."""
        digest = hashlib.sha256(json.dumps([self.argv, sorted(self.environment.items())]).encode())
        for path in self.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Running:
    """A live process as its pid file names it."""

    name: str
    pid: int
    fingerprint: str
    started: float


class Processes:
    """The daemons of one cluster: pid files in one folder, logs in another."""

    def __init__(self, pids: Path, logs: Path, *, die_with_parent: bool = False) -> None:
        self._pids = pids
        self._logs = logs
        self._die_with_parent = die_with_parent

    def log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def find(self, name: str) -> Running | None:
        """The process if it is alive and still the one that was started."""
        try:
            record = json.loads((self._pids / f"{name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        alive_since = start_time(record["pid"])
        # A process that exited before its start time could be read has none in its record either.
        if record["boot"] != _boot_id() or alive_since is None or alive_since != record["start_time"]:
            return None
        return Running(name, record["pid"], record["fingerprint"], record["started"])

    def all(self) -> list[Running]:
        found = (self.find(path.stem) for path in sorted(self._pids.glob("*.json")))
        return [running for running in found if running]

    def names(self) -> list[str]:
        """Every daemon that was started here, alive or not."""
        return sorted(path.stem for path in self._pids.glob("*.json"))

    def is_current(self, daemon: Daemon) -> bool:
        """Whether it runs, with exactly this command line and configuration."""
        running = self.find(daemon.name)
        return running is not None and running.fingerprint == daemon.fingerprint()

    def ensure(self, daemon: Daemon) -> bool:
        """Have the daemon running with exactly this command line and configuration. True if it was (re)started."""
        if self.is_current(daemon):
            return False
        self.stop(daemon.name)
        self._start(daemon)
        return True

    def stop(self, name: str, patience: float = 5.0) -> None:
        """Ask, wait, then kill. Forgets the pid file only when the process is gone."""
        running = self.find(name)
        if running:
            terminate(running.pid, patience)
        (self._pids / f"{name}.json").unlink(missing_ok=True)

    def signal(self, name: str, number: signal.Signals) -> None:
        running = self.find(name)
        if not running:
            raise ClusterError(f"{name} is not running; its log is {self.log(name)}")
        os.kill(running.pid, number)

    def wait_for(self, name: str, ready: Callable[[], bool], timeout: float) -> None:
        """Wait for a condition; a daemon that exits meanwhile is reported at once with the end of its log."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self.find(name):
                raise ClusterError(f"{name} exited while starting; the end of {self.log(name)}:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{name} was not ready after {timeout:.0f} s; the end of {self.log(name)}:\n{self.tail(name)}")
            time.sleep(_POLL)

    def tail(self, name: str, lines: int = 15) -> str:
        try:
            text = self.log(name).read_text(errors="replace")
        except FileNotFoundError:
            return "(no log)"
        return "\n".join(f"  {line[:400]}" for line in text.splitlines()[-lines:])

    def _start(self, daemon: Daemon) -> None:
        for folder in (self._pids, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        argv = list(daemon.argv)
        if self._die_with_parent:
            argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
        with self.log(daemon.name).open("ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**base_environment(os.environ), **daemon.inherited, **daemon.environment},
            )
        record = {
            "pid": child.pid,
            "start_time": start_time(child.pid),
            "boot": _boot_id(),
            "fingerprint": daemon.fingerprint(),
            "started": time.time(),
        }
        write_atomically(self._pids / f"{daemon.name}.json", json.dumps(record))
        # The process outlives this one on purpose; without this Popen warns about it when it is collected.
        child.returncode = 0


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a daemon inherits. Not proxies or a KUBECONFIG: they would send cluster traffic elsewhere, differently for each caller."""
    kept = {name: environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in environ}
    return {**kept, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which the process started; None when it is gone or only waits to be reaped."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


def terminate(pid: int, patience: float) -> None:
    """SIGTERM, then SIGKILL. SIGCONT first, because a stopped process would never see the SIGTERM."""
    born = start_time(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + patience
    while born is not None and start_time(pid) == born:
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL)


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """A reader sees the old file or the new one, never half of it; an unchanged file keeps its modification time."""
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    partial.replace(path)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
