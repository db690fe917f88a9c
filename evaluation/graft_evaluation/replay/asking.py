"""
A log, asked of two servers:

    survey of the whole log -> what the file has already -> both servers, in random order -> score -> line -> file

What is asked, of whom and in which order is drawn from the seed by hash, so that a replay that is interrupted and started again is the
same one. From the first question on nothing is left out for what the candidate does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from graft_api.collect import Content, PairLine, SideLine, Sides, Told
from graft_api.schema import Invalid, canonical_json
from graft_evaluation.pairs.contrasts import CONTROL, INSTRUMENT, PRODUCTION
from graft_evaluation.pairs.scoring import Scoring, Trio
from graft_evaluation.pairs.sides import Side
from graft_evaluation.replay import server
from graft_evaluation.replay.answers import writable
from graft_evaluation.replay.budgets import Budgets
from graft_evaluation.replay.log import Logged, Survey, requests
from graft_evaluation.replay.pairs_file import FRAME_SECONDS, Earlier, PairsFile
from graft_evaluation.replay.server import Address, Reply, Server
from graft_evaluation.replay.settings import ReplaySettings

PATIENCE_SECONDS = 60.0
"""For which a server may be away."""
PROGRESS_SECONDS = 5.0
REFUSED = ("request-refused", "Both")


@dataclass(frozen=True)
class Replay:
    """All that a replay is told."""

    log: Path
    incumbent: Address
    candidate: Address
    settings: ReplaySettings
    environment: Mapping[str, str]
    """Keys of the two servers, and tokens of scorers."""
    patience: float


@dataclass
class Progress:
    """How far it is."""

    wanted: int
    there: int
    """Of an earlier start."""
    asked: int = 0
    endings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(side, how its answer ended), of those that are not complete."""
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        """Return a line for a person."""
        spent, left = time.monotonic() - self.began, self.wanted - self.there - self.asked
        rate = self.asked / spent if spent else 0.0
        words = [f"{self.there + self.asked} of {self.wanted} requests, {rate:.1f}/s"]
        words += [f"{count} {ended} of the {side}" for (side, ended), count in sorted(self.endings.items())]
        return ", ".join(words + ([f"about {left / rate / 60:.0f} min left"] if rate and left else []))


async def replay(told: Replay, found: Survey, out: PairsFile, before: list[Earlier], say: Callable[[str], None]) -> Progress:
    """Ask what is missing in the file. Raises `Invalid`, and `StoppedError` when a server is away."""
    settings, environment = told.settings, told.environment
    async with AsyncExitStack() as stack:
        budgets = Budgets(settings.metrics)
        scoring = await stack.enter_async_context(aclosing(Scoring(settings.metrics, environment, budgets.spend)))
        _refuse(scoring.unbuilt)
        servers = [
            await stack.enter_async_context(
                server.opened(address, environment.get(address.key_variable), settings.timeout_seconds, told.patience)
            )
            for address in (told.incumbent, told.candidate)
        ]
        asking = _Asking(told, (servers[0], servers[1]), scoring, out)
        there = asking.already(found, before)
        budgets.restore(before, scoring)
        progress = Progress(len(found.digests), len(there))
        await _all(asking, (request for request in requests(told.log) if request.number not in there), progress, say)
    return progress


async def _all(asking: _Asking, waiting: Iterator[Logged], progress: Progress, say: Callable[[str], None]) -> None:
    async def work() -> None:
        for request in waiting:  # one iterator for all: each is taken once
            line = await asking.pair(request)
            asking.out.add(line)
            progress.asked += 1
            ended = (("incumbent", line.production.ended), ("candidate", line.candidate.ended))
            progress.endings.update(end for end in ended if end[1] != "Complete")

    beside = [
        asyncio.create_task(_each(PROGRESS_SECONDS, lambda: say(str(progress)))),
        asyncio.create_task(_each(FRAME_SECONDS, asking.out.flush)),
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(asking.told.settings.concurrency):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    finally:
        for task in beside:
            task.cancel()
    say(str(progress))


async def _each(seconds: float, act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        act()


def _refuse(wrong: Mapping[str, str]) -> None:
    if wrong:
        raise Invalid([f"metric {name}: scorer: {why}" for name, why in wrong.items()])


class _Asking:
    """One request at a time, for many that do so beside each other."""

    def __init__(self, told: Replay, servers: tuple[Server, Server], scoring: Scoring, out: PairsFile) -> None:
        self.told = told
        self.out = out
        self._incumbent, self._candidate = servers
        self._scoring = scoring
        self._cold = told.settings.warm_up_requests
        self._boot = _boot(told.settings, servers)

    def already(self, found: Survey, before: list[Earlier]) -> set[int]:
        """Return the numbers of the requests that the file has. Raises `Invalid` for a file of another replay."""
        another = f"--out: {self.out.path}: has pairs of"
        advice = "name another file, or delete it to begin anew"
        for line in before:
            if line.boot != self._boot:
                raise Invalid([f"{another} other servers, models, metrics, controlShare or seed; {advice}"])
            if found.digests.get(line.number) != line.request_id:
                raise Invalid([f"{another} another log: line {line.number} of {self.told.log} is another request; {advice}"])
        return {line.number for line in before}

    async def pair(self, request: Logged) -> PairLine:
        """Return the line of one request."""
        at = int(time.time()) if request.at is None else request.at
        replies = await self._replies(request)
        first = list(replies).index("candidate") < list(replies).index("incumbent") if "incumbent" in replies else None
        candidate, incumbent = replies["candidate"].side, replies.get("incumbent")
        if request.recorded is not None:
            production, again = Side(request.recorded, request.seconds), incumbent
        else:
            production, again = replies["incumbent"].side, replies.get("again")
        line = PairLine(
            boot=self._boot,
            number=request.number,
            request_id=request.digest,
            conversation=request.conversation,
            first_turn=request.first_turn,
            at=at,
            api=request.api,
            stream=request.stream,
            production=self._line(production),
            candidate=self._line(candidate),
            incumbent=None if again is None else self._line(again.side),
            candidate_first=first,
            values={},
            **self._request(request),
        )
        refused = incumbent is not None and incumbent.refused
        if refused and request.recorded is None:
            # Decided by the incumbent alone, as in production, where such a request is never copied.
            return line.model_copy(update={"exclusions": {PRODUCTION: REFUSED, CONTROL: REFUSED}, "incumbent": None})
        trio = Trio(request, production, candidate, None if again is None or refused else again.side)
        return line.model_copy(update=await self._values(trio, incumbent))

    async def _replies(self, request: Logged) -> dict[str, Reply]:
        """Ask everybody who is to be asked, in an order that the seed draws."""
        controlled = self.told.settings.controlled(request.conversation)
        whom = {"candidate": self._candidate}
        if request.recorded is None or controlled:
            whom["incumbent"] = self._incumbent
        order = sorted(whom, key=lambda name: self.told.settings.place(f"order {name}", str(request.number)))
        if request.recorded is None and controlled:
            # Last, for it finds the prompt in its server's cache: of the incumbent the first answer's times are compared.
            whom["again"] = self._incumbent
            order.append("again")
        return {name: await whom[name].ask(request) for name in order}

    async def _values(self, trio: Trio[Logged], incumbent: Reply | None) -> dict[str, Any]:
        quality, instrument = await self._scoring.quality(trio, trio.question.digest)
        _refuse(self._scoring.invalid)
        contrasts = [(PRODUCTION, quality), *([] if instrument is None else [(INSTRUMENT, instrument)])]
        values: dict[str, dict[str, Sides]] = {name: found.found for name, found in contrasts}
        broken = {name: found.broken for name, found in contrasts if found.broken}
        exclusions = {name: ("scorer-broke", found.broke.value) for name, found in contrasts if found.broke is not None}
        if incumbent is not None and incumbent.refused:
            exclusions[CONTROL] = REFUSED
        elif incumbent is not None and self._is_cold():
            exclusions[CONTROL] = ("warm-up", "Both")
        elif incumbent is not None:
            values[CONTROL] = self._scoring.hardware(trio.question, incumbent.side, trio.candidate)
        return {"values": values, "broken": broken, "exclusions": exclusions}

    def _is_cold(self) -> bool:
        """Whether this is one of the first pairs since the start: caches and compilers are cold."""
        self._cold, cold = max(0, self._cold - 1), self._cold > 0
        return cold

    def _line(self, side: Side) -> SideLine:
        said, content = side.said, self.told.settings.content
        line = SideLine(ended=said.ended, seconds=side.seconds, first_byte_seconds=side.first_byte_seconds, tokens=said.tokens)
        if content is Content.NONE:
            return line
        calls = None if said.tool_calls is None else [(call.name, call.arguments) for call in said.tool_calls]
        update: dict[str, Any] = {"characters": len(said.text)}
        if content is Content.FULL:
            update["told"] = Told(text=said.text, tool_calls=calls)
        return line.model_copy(update=update)

    def _request(self, request: Logged) -> dict[str, Any]:
        content, body = self.told.settings.content, writable(json.dumps(request.body, ensure_ascii=False))
        if content is Content.NONE:
            return {}
        return {"request_bytes": len(body.encode())} | ({"request": body} if content is Content.FULL else {})


def _boot(settings: ReplaySettings, servers: tuple[Server, Server]) -> str:
    """Return what tells one replay from all others that could be in the same file."""
    told = settings.model_dump(mode="json", by_alias=True, include={"metrics", "control_share", "seed"})
    asked = [[found.address.url, found.model] for found in servers]
    return f"replay-{sha256(canonical_json([told, asked])).hexdigest()[:32]}"
