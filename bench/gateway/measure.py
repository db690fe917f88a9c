"""One run of the generator, with what the measured processes used meanwhile."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from programs import program
from systems import API_KEY, MODELS, Cores, Running, pinned


@dataclass(frozen=True)
class Point:
    """What is asked for: requests per second, or concurrent streams."""

    rate: int
    stream: bool

    def flags(self) -> list[str]:
        return ["-streams", str(self.rate)] if self.stream else ["-rate", str(self.rate)]


@dataclass(frozen=True)
class Length:
    """Of one run, in seconds."""

    warm_up: float
    measured: float


@dataclass(frozen=True)
class Seen:
    """What one run saw: the generator's words, and CPU seconds and memory of the measured process and its children."""

    load: dict[str, Any]
    cpu_seconds: float
    rss_mib: float

    @property
    def failed(self) -> int:
        return sum(self.load["failed"].values())


def run(target: Running, point: Point, length: Length, cores: Cores, extra: Sequence[str] = ()) -> Seen:
    """Load the target once; processor time counts from the end of the warm-up to the end of the measured time."""
    with load(target, point, length, cores, extra) as generator:
        await_event(generator, "measuring")
        before = cpu_seconds(target.pid)
        await_event(generator, "measured")
        used, rss = cpu_seconds(target.pid) - before, rss_mib(target.pid)
        result = await_event(generator, "result")
    return Seen(result, used, rss)


@contextmanager
def load(target: Running, point: Point, length: Length, cores: Cores, extra: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    command = (
        *(str(program("load")), "-url", target.url, "-model", ",".join(MODELS), "-key", API_KEY),
        *("-warm-up", f"{length.warm_up}s", "-measured", f"{length.measured}s", *point.flags(), *extra),
    )
    with subprocess.Popen(pinned(cores.instruments, command), stdout=subprocess.PIPE, text=True) as generator:
        try:
            yield generator
        except BaseException:
            generator.kill()
            raise


def await_event(generator: subprocess.Popen[str], name: str) -> dict[str, Any]:
    assert generator.stdout is not None
    for line in generator.stdout:
        said: dict[str, Any] = json.loads(line)
        if said["event"] == name:
            return said
    raise RuntimeError(f"the generator ended before it said {name!r}")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its children so far."""
    times = [each.cpu_times() for each in tree(pid)]
    return sum(one.user + one.system for one in times)


def rss_mib(pid: int) -> float:
    return sum(each.memory_info().rss for each in tree(pid)) / 2**20


def tree(pid: int) -> list[psutil.Process]:
    """Its workers do not come and go, so none ends between here and its reading."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]
