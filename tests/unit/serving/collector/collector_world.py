"""A gateway that sends exchanges, a vLLM with two versions, and a collector between them: real sockets everywhere."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from graft_api.collect import CollectorSettings, Compare, PairLine
from graft_api.schema import parse
from graft_api.tee import BOOT_HEADER, DROPPED_HEADER, EXCHANGES_PATH, NUMBERED_HEADER, ExchangeHead
from graft_evaluation.pairs.contrasts import plans
from graft_evaluation.pairs.lines import read_lines
from graft_serving.agent.tokens import Answer
from graft_serving.collector.chain import Chain
from graft_serving.collector.commits import Commit
from graft_serving.collector.frames import write_frames
from graft_serving.collector.ingest import Intake, application
from graft_serving.collector.journal import Clock
from graft_serving.collector.lanes import Surroundings, compare_lane
from graft_serving.collector.reporter import Reporter
from graft_serving.collector.segments import pair_algebra, unpacked
from graft_serving.collector.store import FolderStore, Store

OLD, NEW = "dsl-old", "dsl-new"
START = 1_800_000_000
DELIVERY_SECONDS = 30


def chat(text: str, model: str = "dsl", finish: str = "stop", calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    usage = {"prompt_tokens": 3, "completion_tokens": len(text.split())}
    return {"id": "1", "model": model, "choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage}


def events(text: str, finish: str | None = "stop") -> bytes:
    """A streamed chat answer; without `finish` it breaks off."""
    deltas = [{"content": word} for word in text.split(" ")]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + (b"data: [DONE]\n\n" if finish else b"")


@dataclass
class Does:
    """What the shadow does with one request."""

    text: str = "yes"
    seconds: float = 0.0
    status: int = 200
    finish: str = "stop"
    breaks: bool = False


class FakeShadow:
    """A vLLM behind its door. `does(version, prompt)` says what becomes of a request."""

    def __init__(self) -> None:
        self.does: Callable[[str, str], Does] = lambda version, prompt: Does()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[Any] = []
        self.versions = {OLD, NEW}
        self.up = True
        self.under_way = self.most_under_way = 0
        self.url = ""

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_post("/v1/chat/completions", self._chat)
        return made

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        version, prompt = body["model"], body["messages"][-1]["content"]
        if not self.up:
            return web.Response(status=503, headers={"x-graft-not-started": "1"})
        if version not in self.versions:
            return web.json_response({"error": {"message": f"The model `{version}` does not exist."}}, status=404)
        self.asked.append((version, body))
        self.headers.append(request.headers)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._done(request, self.does(version, prompt), stream=bool(body.get("stream")))
        finally:
            self.under_way -= 1

    async def _done(self, request: web.Request, does: Does, *, stream: bool) -> web.StreamResponse:
        await asyncio.sleep(does.seconds)
        if does.breaks:
            assert request.transport
            request.transport.abort()
            return web.Response()
        if does.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=does.status)
        if not stream:
            return web.json_response(chat(does.text, finish=does.finish))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(events(does.text, does.finish))
        return response


def key(name: str) -> str:
    return blake2b(name.encode(), digest_size=16).hexdigest()


class FakeGateway:
    """Numbers what it sends, and sends again until it is told that it arrived."""

    def __init__(self, boot: str = "gateway-a", token: str = "t") -> None:  # noqa: S107
        self.boot = boot
        self.token = token
        self.numbered = 0
        self.dropped: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()

    def exchange(self, prompt: str, answer: str = "yes", *, conversation: str | None = None, body: Any = None, **changes: Any) -> Any:
        """Return the next one: head, request, answer."""
        self.numbered += 1
        stream = bool(changes.get("stream", False))
        request = body or {"model": "dsl", "messages": [{"role": "user", "content": prompt}], **({"stream": True} if stream else {})}
        head = {
            "number": self.numbered,
            "request_id": f"{self.boot}-{self.numbered}",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "api": "chat",
            "domain": "dsl",
            "wanted": OLD,
            "version": OLD,
            "pod": "server-a",
            "epoch": 1,
            "revision": 1,
            "conversation": key(conversation or f"{self.boot}-{self.numbered}"),
            "named": False,
            "stream": stream,
            "status": 200,
            "started": float(START + self.numbered),
            "seconds": 0.5,
            "first_byte_seconds": 0.1,
            "tokens_in": 3,
            "tokens_out": len(answer.split()),
            **changes,
        }
        raw = events(answer) if stream else json.dumps(chat(answer)).encode()
        return ExchangeHead(**head), json.dumps(request).encode(), raw

    def headers(self) -> dict[str, str]:
        told = {BOOT_HEADER: self.boot, NUMBERED_HEADER: str(self.numbered), DROPPED_HEADER: json.dumps(dict(self.dropped))}
        return {**told, "Authorization": f"Bearer {self.token}"}

    async def send(self, session: aiohttp.ClientSession, url: str, exchanges: list[Any]) -> int:
        """Once. Returns the status; 0 if nobody answered."""
        try:
            async with session.post(url + EXCHANGES_PATH, data=write_frames(exchanges), headers=self.headers()) as response:
                status = response.status
        except aiohttp.ClientError:
            status = 0
        self.statuses[status] += 1
        return status

    async def deliver(self, session: aiohttp.ClientSession, url: str, exchanges: list[Any]) -> None:
        """Until it has arrived. Raises `TimeoutError`: a collector that failed at its start never takes anything."""
        async with asyncio.timeout(DELIVERY_SECONDS):
            while (status := await self.send(session, url, exchanges)) != 204:
                assert status in (0, 429, 503), status
                await asyncio.sleep(0.02)


METRICS = [
    {"metric": {"name": "wrong", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"},
     "scorer": {"regex": {"pattern": "yes.*"}}},
    {"metric": {"name": "length", "kind": "Mean", "direction": "LowerIsBetter", "role": "Informational", "worst": 1000.0},
     "measure": "Length"},
    {"metric": {"name": "latency", "kind": "Quantile", "quantile": 0.5, "unit": "s", "direction": "LowerIsBetter", "role": "Guardrail",
                "margin": 0.1, "scale": "Relative"},
     "measure": "Latency"},
    {"metric": {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Guardrail", "margin": 0.01},
     "measure": "ServerError"},
]  # fmt: skip


def settings(store: str, server: str, **changes: Any) -> CollectorSettings:
    shadow_settings = {"address": server, "tokenFile": None, "concurrency": 8, "timeoutSeconds": 1, **changes.pop("shadow", {})}
    compare = {
        "test": "t",
        "uid": "u-1",
        "domain": "dsl",
        "incumbent": OLD,
        "candidate": NEW,
        "shadow": shadow_settings,
        "seed": 7,
        "warmUpRequests": 0,
        "metrics": METRICS,
        "store": store,
        "segments": {"seconds": 3600},
        **changes,
    }
    return parse(CollectorSettings, {"compare": compare})


async def welcome(_: str | None) -> Answer:
    return Answer(204, {})


@dataclass
class World:
    """A collector in this process, until `stop` (as SIGTERM) or `kill`."""

    settings: CollectorSettings
    clock: Clock = field(default_factory=lambda: Clock(time.time, time.monotonic))
    room: int = 64 * 1024 * 1024
    store: Store | None = None
    writer: str = "w1"
    run_directory: Path | None = None

    async def start(self) -> None:
        compare = self.compare
        around = Surroundings(self.writer, Path("/nowhere"), {}, self.clock, Random(1), self.run_directory)  # noqa: S311
        self.reporter = Reporter(self.writer, self.settings, self.clock.now, lambda: None)
        self.service, self.lane, self.equipment = compare_lane(compare, around, self.reporter)
        if self.store is not None:
            self.equipment.journal.chain._store = self.store
        self.journal = self.equipment.journal
        self.intake = Intake([(self.lane, lambda: self.journal.numbers)], self.room, self.clock.now, lambda: self.service.resumed)
        self.server = TestServer(application(self.intake, welcome))
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")
        self.task = asyncio.ensure_future(self.service.run())
        while not self.service.resumed and not self.task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        if self.task.done():
            await self.task

    @property
    def compare(self) -> Compare:
        assert self.settings.compare
        return self.settings.compare

    async def commit(self) -> None:
        await self.journal.commit(self.reporter.read)

    async def idle(self, seconds: float = 30.0) -> None:
        """Until nothing is in memory but the open segment."""
        async with asyncio.timeout(seconds):
            while self.lane.held:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self.intake.stopping = True
        await self.service.drain()
        await self.kill()

    async def kill(self) -> None:
        """Nothing more is written, and everything in memory is forgotten."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.server.close()


def committed(folder: Path | Store, compare: Compare) -> tuple[Chain[Any], list[PairLine]]:
    """What lies in a store: the chain added up, and the lines of the segments that commits name."""
    store = FolderStore(folder) if isinstance(folder, Path) else folder
    chain: Chain[Any] = Chain(store, "reader", pair_algebra(plans(compare)))
    chain.resume()
    lines: list[PairLine] = []
    for path in store.list("commits/"):
        commit = Commit.model_validate_json(store.read(path) or b"", by_alias=True, by_name=False)
        if commit.segment:
            content = store.read(commit.segment.path)
            assert content is not None
            lines += read_lines(unpacked(content))
    return chain, lines
