"""`graft shadow --requests`: pairs of a log of requests, asked of two servers."""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import Namespace
from pathlib import Path

from graft_api.schema import Invalid
from graft_evaluation.replay.asking import PATIENCE_SECONDS, Replay, replay
from graft_evaluation.replay.log import Survey
from graft_evaluation.replay.pairs_file import opened
from graft_evaluation.replay.server import Address
from graft_evaluation.replay.settings import read_settings

NEEDED = {"incumbent": "URL[#model] of what is held against", "candidate": "URL[#model] of what is tested", "out": "the file of pairs"}


def telling(options: Namespace) -> Replay:
    """Return what is asked, of whom. Raises `Invalid`."""
    problems = [f"--{name}: name {what}; --requests needs it" for name, what in NEEDED.items() if getattr(options, name) is None]
    if options.metrics is None:
        problems.append("--metrics: name the file with metrics and scorers, or a ShadowTest; --requests needs it")
    if problems:
        raise Invalid(problems)
    settings = read_settings(options.metrics)
    if settings is None:
        raise Invalid([f"{options.metrics}: metrics: Field required; a replay scores answers itself, see docs/shadow.md"])
    if options.concurrency is not None:
        settings = settings.model_copy(update={"concurrency": options.concurrency})
    addresses = [Address.of(side, getattr(options, side)) for side in ("incumbent", "candidate")]
    return Replay(options.requests, addresses[0], addresses[1], settings, os.environ, options.patience or PATIENCE_SECONDS)


def asked(told: Replay, found: Survey, out: Path) -> None:
    """Ask what the file does not have yet. Raises `Invalid`, `StoppedError` and KeyboardInterrupt; the file has what was answered."""
    with opened(out) as (pairs, before):
        asyncio.run(replay(told, found, pairs, before, _say))


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
