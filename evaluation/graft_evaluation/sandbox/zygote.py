"""
The process that judges one answer after another, each in a child of its own: `python -I -m graft_evaluation.sandbox.zygote`.

It loads a parser or solver once and forks for each answer, so that an answer costs milliseconds and still can neither outlive its
limits nor leave anything behind for the next. A line of JSON comes in, a line of JSON goes out.

    in   {"program", "settings", "limits"}          out  {"ready": true} | {"invalid": "..."}
    in   {"text"}                                   out  `Ended` as JSON
"""

import contextlib
import ctypes
import importlib
import json
import os
import resource
import selectors
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

PROGRAMS = frozenset({"grammar", "smt", "command", "tools"})
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
CHUNK = 65536

Work = Callable[[str, Callable[[dict[str, Any]], None]], None]
"""(text, say): judges the text and says what it finds, as often as there is something new."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one child. CPU time is what a text can be blamed for; wall time is also the machine's."""

    cpu_seconds: int
    wall_seconds: float
    memory_mib: int
    """Beyond what the process has already; of the whole process, where it becomes another program."""
    output_bytes: int


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    output: str
    status: int | None
    """Exit status, or None if a signal ended it."""
    signal: int | None
    expired: bool
    """Its wall time was over."""
    overflowed: bool
    """It wrote more than it may."""
    cpu_seconds: float


def main() -> None:
    _adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what runs is ended with it
    config = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**config["limits"])
    assert config["program"] in PROGRAMS  # noqa: S101 - the pool's own word
    work: Work = importlib.import_module(f"graft_evaluation.sandbox.{config['program']}").prepare(config["settings"])
    _write({"ready": True})
    for line in sys.stdin.buffer:
        _write(asdict(run(work, json.loads(line)["text"], limits)))


def run(work: Work, text: str, limits: Limits) -> Ended:
    """Do the work in a child and return how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(work, text, limits, writing)
    os.close(writing)
    try:
        output, expired, overflowed = _collect(reading, child, limits)
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):  # it ended before it had a group
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        _reap_orphans()
    return Ended(
        output=output.decode(errors="replace"),
        status=os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        expired=expired,
        overflowed=overflowed,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
    )


def _collect(reading: int, child: int, limits: Limits) -> tuple[bytes, bool, bool]:
    """Read until the child ends, its time is over or it says too much. What it started may hold the pipe open: nobody waits for that."""
    deadline = time.monotonic() + limits.wall_seconds
    output = bytearray()
    os.set_blocking(reading, False)
    ending = os.pidfd_open(child)
    with selectors.DefaultSelector() as selector, os.fdopen(ending):
        selector.register(reading, selectors.EVENT_READ)
        selector.register(ending, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            ready = {key.fd for key, _ in selector.select(max(left, 0))}
            if reading in ready and not _read(reading, output, limits.output_bytes):
                selector.unregister(reading)
            if len(output) > limits.output_bytes:
                return bytes(output[: limits.output_bytes]), False, True
            if ending in ready:
                _read(reading, output, limits.output_bytes)
                return bytes(output[: limits.output_bytes]), False, len(output) > limits.output_bytes
            if left <= 0:
                return bytes(output), True, False


def _read(reading: int, output: bytearray, limit: int) -> bool:
    """Take what is there, but little more than the limit; return whether more may come."""
    try:
        while len(output) <= limit:
            chunk = os.read(reading, CHUNK)
            if not chunk:
                return False
            output += chunk
    except BlockingIOError:
        pass
    return True


def _child(work: Work, text: str, limits: Limits, writing: int) -> NoReturn:
    """Never returns, whatever happens: a second zygote would answer for the first."""
    status = 70  # sysexits.h EX_SOFTWARE
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.dup2(writing, 1)  # the parent's own pipes are out of reach from here on
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 2)
        os.closerange(3, 1024)
        confine(limits)
        work(text, _write)
        status = 0
    except MemoryError:
        status = OUT_OF_MEMORY
    finally:
        os._exit(status)


OUT_OF_MEMORY = 71
"""Exit status of a child that met its memory limit in Python."""


def confine(limits: Limits) -> None:
    """Lower this process's limits for good."""
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    memory = _address_space() + limits.memory_mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _address_space() -> int:
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a child of a fork does as little as it can
        return int(file.read().split()[0]) * resource.getpagesize()


def _write(value: dict[str, Any]) -> None:
    """Write a line at once: a signal may end the child at any time."""
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(1, data) :]


def _adopt_orphans() -> None:
    """Become the parent of what a command's children leave behind in sessions of their own, so that it can be ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans() -> None:
    while orphans := _children():
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
        for orphan in orphans:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, 0)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:  # noqa: PTH123
            return [int(number) for number in file.read().split()]
    except OSError:  # a kernel without CONFIG_PROC_CHILDREN
        return []


if __name__ == "__main__":
    main()
