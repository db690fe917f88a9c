"""
A summary as bytes: hourly summaries, resuming, merging elsewhere.

    GRFTPAIR | version u16 | length of header u32 | CRC-32 of all that follows u32 | header JSON | zlib of the arrays, one after another

The header carries the plan, the tallies and each array's name, type and length. The large histograms are mostly zeros and are
written as the places and counts of those that are not.
"""

import json
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_api.comparison import Metric
from graft_evaluation.paired.sample import Conversations, Sample
from graft_evaluation.paired.summary import COLUMNS, Plan, Summary

MAGIC = b"GRFTPAIR"
VERSION = 2
_PREFIX = struct.Struct("<8sHII")
_LARGEST = 1 << 30
"""Bytes that an honest summary's arrays do not exceed."""


def to_bytes(summary: Summary) -> bytes:
    """Return a summary as bytes. Equal states give equal bytes."""
    arrays = _arrays(summary)
    header = {
        "plan": _plan_json(summary.plan),
        "exclusions": sorted([*key, count] for key, count in summary.tallies.exclusions.items()),
        "scorerFailures": dict(sorted(summary.tallies.scorer_failures.items())),
        "level": summary.sample.table().level,
        "arrays": [[name, array.dtype.str, array.size] for name, array in arrays.items()],
    }
    if transient := dict(sorted(summary.tallies.transient_failures.items())):  # a summary without has the bytes that it always had
        header["transientFailures"] = transient
    head = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    body = zlib.compress(b"".join(array.tobytes() for array in arrays.values()), 6)
    return _PREFIX.pack(MAGIC, VERSION, len(head), zlib.crc32(head + body)) + head + body


def from_bytes(data: bytes) -> Summary:
    """Return the summary. Raises ValueError for anything that `to_bytes` did not write in this version, or that was damaged."""
    if len(data) < _PREFIX.size:
        raise ValueError("not a summary: too short")
    magic, version, length, checksum = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("not a summary: it does not begin with GRFTPAIR")
    if version != VERSION:
        raise ValueError(f"a summary of version {version}, this reads version {VERSION}")
    rest = data[_PREFIX.size :]
    if zlib.crc32(rest) != checksum:
        raise ValueError("a damaged summary: its checksum differs")
    header = json.loads(rest[:length])
    return _restored(header, _split(header, rest[length:]))


def write(summary: Summary, path: Path) -> None:
    """Write a summary to a file: complete under its name, or not there."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_bytes(to_bytes(summary))
    unfinished.replace(path)


def read(path: Path) -> Summary:
    """Read a summary from a file. Raises ValueError as `from_bytes`, OSError as the file system does."""
    return from_bytes(path.read_bytes())


def _arrays(summary: Summary) -> dict[str, NDArray[Any]]:
    table = summary.sample.table()
    flat = summary.bins.reshape(-1)
    places = np.flatnonzero(flat)
    return {
        "pairs": summary.pairs,
        "sums": summary.sums,
        "alone": summary.alone,
        "missing": summary.missing,
        "sketch": summary.sketch,
        # Distances between places are small numbers, which compress well.
        "binSteps": np.diff(places, prepend=0).astype(np.uint32),
        "binCounts": flat[places],
        "keys": table.keys,
        "last": table.last,
        # By column: neighbours are alike.
        "conversations": np.ascontiguousarray(table.sums.T),
    }


def _split(header: dict[str, Any], body: bytes) -> dict[str, NDArray[Any]]:
    sizes = [np.dtype(kind).itemsize * size for _, kind, size in header["arrays"]]
    if sum(sizes) > _LARGEST:
        raise ValueError(f"a summary of {sum(sizes)} bytes is not one of ours")
    raw = zlib.decompressobj().decompress(body, sum(sizes) + 1)
    if len(raw) != sum(sizes):
        raise ValueError("a damaged summary: its arrays have another length")
    starts = np.cumsum([0, *sizes[:-1]])
    return {
        name: np.frombuffer(raw, kind, size, int(start)).copy() for (name, kind, size), start in zip(header["arrays"], starts, strict=True)
    }


def _restored(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Summary:
    plan = _plan(header["plan"])
    summary = Summary(plan)
    for name in ("pairs", "sums", "alone", "missing", "sketch"):
        target: NDArray[Any] = getattr(summary, name)
        target[...] = arrays[name].reshape(target.shape)
    np.add.at(summary.bins.reshape(-1), np.cumsum(arrays["binSteps"], dtype=np.int64), arrays["binCounts"])
    columns = arrays["conversations"].reshape(1 + COLUMNS * len(plan.summed), -1)
    table = Conversations(header["level"], arrays["keys"], arrays["last"], np.ascontiguousarray(columns.T))
    summary.sample = Sample(plan.seed, plan.capacity, table)
    summary.tallies.exclusions = Counter({(cause, side): count for cause, side, count in header["exclusions"]})
    summary.tallies.scorer_failures = Counter(header["scorerFailures"])
    summary.tallies.transient_failures = Counter(header.get("transientFailures", {}))
    return summary


def _plan_json(plan: Plan) -> dict[str, Any]:
    metrics = [metric.model_dump(mode="json") for metric in plan.metrics]
    return {"name": plan.name, "metrics": metrics, "seed": plan.seed, "buckets": plan.buckets, "capacity": plan.capacity}


def _plan(data: dict[str, Any]) -> Plan:
    metrics = tuple(Metric.model_validate_json(json.dumps(metric)) for metric in data["metrics"])
    return Plan(data["name"], metrics, data["seed"], data["buckets"], data["capacity"])
