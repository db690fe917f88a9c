"""Whether the gateway's memory stays where it is: a million requests, then a thousand streams."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

from measure import Length, Point, await_event, load, rss_mib
from systems import Cores, Running

RATE = 2000
STREAMS = Point(1000, stream=True)
STREAM_SECONDS = 120.0
SAMPLE_SECONDS = 5.0
FLAT_MIB = 8.0
"""Growth from the second quarter to the last that counts as none: the first quarter warms pools and tables up."""


def soak(target: Running, requests: int, cores: Cores) -> dict[str, Any]:
    at_rest = rss_mib(target.pid)
    many = watched(target, Point(RATE, stream=False), requests / RATE, cores)
    streams = watched(target, STREAMS, STREAM_SECONDS, cores)
    outcome = {"rss_at_start_mib": round(at_rest, 1), "requests": many, "streams": streams}
    for name in ("requests", "streams"):
        show(name, outcome[name])
    return outcome


def watched(target: Running, point: Point, seconds: float, cores: Cores) -> dict[str, Any]:
    """Load the target and sample its memory from the end of the warm-up on."""
    samples: list[float] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            samples.append(rss_mib(target.pid))
            print(f"{time.strftime('%H:%M:%S')} {samples[-1]:.1f} MiB", flush=True)

    with load(target, point, Length(warm_up=5, measured=seconds), cores) as generator:
        await_event(generator, "measuring")
        thread = threading.Thread(target=sample, daemon=True)
        thread.start()
        result = await_event(generator, "result")
        over.set()
        thread.join()
    return {"load": result, "rss_mib": [round(one, 1) for one in samples], **verdict(samples)}


def verdict(samples: list[float]) -> dict[str, Any]:
    """Compare the medians of the second and the last quarter."""
    if len(samples) < 8:
        return {"growth_mib": None, "flat": None}
    quarter = len(samples) // 4
    growth = statistics.median(samples[-quarter:]) - statistics.median(samples[quarter : 2 * quarter])
    return {"growth_mib": round(growth, 1), "flat": growth < FLAT_MIB}


def show(name: str, seen: dict[str, Any]) -> None:
    word = {True: "flat", False: "GROWING", None: "too short to tell"}[seen["flat"]]
    load, samples = seen["load"], seen["rss_mib"]
    print(f"{name}: {load['ok']:,} ok, failed: {load['failed'] or 'none'}")
    print(f"  RSS {samples[-1] if samples else '-'} MiB at the end, growth {seen['growth_mib']} MiB: {word}")
