"""The doors of an endpoint, an embeddings endpoint, an operator and a store, which say what a test wants, around one check."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import yaml
from aiohttp import web

from graft_api.drift import DriftPolicy, DriftTask, Embeddings, Moment
from graft_api.remote_scorers import Retry
from graft_serving.collector.store import FolderStore
from graft_serving.drift.check import Check, Surroundings
from graft_serving.drift.settings import Settings
from graft_serving.environment import Identity

INCUMBENT, CANDIDATE = "dsl-old", "dsl-new"
MODEL = "minilm"
TOKEN = "token-of-the-check"
PROMPTS = ["May I have my money back?", "The shoes do not fit.", "Cancel my order."]
REFUNDS = {"name": "refunds", "prompts": PROMPTS, "system": "You sell shoes."}
TONE = {"name": "tone", "prompts": ["Hello?", "Are you there?", "Good morning.", "Bye."]}


class Doors:
    """Answers as vLLM behind its door does: what `says` has for a version and a prompt, else the prompt itself."""

    def __init__(self) -> None:
        self.says: dict[tuple[str, str], str | list[str]] = {}
        self.faults: list[web.Response | str] = []
        """Instead of the next answers."""
        self.broken: web.Response | None = None
        """Instead of all."""
        self.asked: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.busy = self.busiest = 0

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_post("/v1/chat/completions", self._answer)
        return made

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization"))
        body = await request.json()
        self.asked.append(body)
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0.002)
        self.busy -= 1
        if self.faults:
            return await self._fault(request, self.faults.pop(0))
        if self.broken is not None:
            return web.Response(status=self.broken.status, body=self.broken.body)
        return completion(self.said(body["model"], body["messages"][-1]["content"]))

    async def _fault(self, request: web.Request, fault: web.Response | str) -> web.StreamResponse:
        if isinstance(fault, web.Response):
            return fault
        request.transport.abort()  # type: ignore[union-attr]
        return web.Response()

    def said(self, version: str, prompt: str) -> str:
        found = self.says.get((version, prompt), prompt)
        return found if isinstance(found, str) else found.pop(0)

    def of(self, version: str) -> Counter[str]:
        """How often a version was asked each prompt."""
        return Counter(body["messages"][-1]["content"] for body in self.asked if body["model"] == version)


def completion(text: str | None, finish: str = "stop") -> web.Response:
    message = {"role": "assistant", "content": text}
    return web.json_response({"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}]})


class Vectors:
    """An embeddings endpoint: two numbers for each text, at the angle of `angles`, else one of its own."""

    def __init__(self) -> None:
        self.angles: dict[str, float] = {}
        self.model = MODEL
        self.faults: list[web.Response] = []
        self.broken: web.Response | None = None
        self.asked: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.dimensions = 2
        self.only: int | None = None
        """So many are answered, then it is away."""

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_post("/v1/embeddings", self._answer)
        return made

    async def _answer(self, request: web.Request) -> web.Response:
        self.tokens.add(request.headers.get("Authorization"))
        body = await request.json()
        self.asked.append(body)
        if self.faults:
            return self.faults.pop(0)
        if self.only is not None and len(self.asked) > self.only:
            return web.Response(status=503)
        if self.broken is not None:
            return web.Response(status=self.broken.status, body=self.broken.body)
        data = [{"object": "embedding", "index": place, "embedding": self.vector(text)} for place, text in enumerate(body["input"])]
        return web.json_response({"object": "list", "data": data[::-1], "model": self.model})

    def vector(self, text: str) -> list[float]:
        angle = self.angles.get(text, int.from_bytes(sha256(text.encode()).digest()[:4], "big") / 2**32)
        return [3 * math.cos(angle), 3 * math.sin(angle), *[0.0] * (self.dimensions - 2)]


class Operator:
    """Takes reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str | None, dict[str, Any]]] = []

    def application(self) -> web.Application:
        made = web.Application()
        made.router.add_post("/{path:.*}", self._take)
        return made

    async def _take(self, request: web.Request) -> web.Response:
        self.reports.append((request.path, request.headers.get("Authorization"), await request.json()))
        return web.Response(status=204)

    @property
    def over(self) -> list[dict[str, Any]]:
        """Reports of an attempt that is over."""
        return [report for *_, report in self.reports if "measured" in report or "problem" in report]


@dataclass
class World:
    """All of it. `task` and `principles` may be changed before a check."""

    folder: Path
    doors: Doors
    vectors: Vectors
    task: DriftTask
    environ: dict[str, str] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.folder / "store")

    @property
    def principles(self) -> Path:
        return self.folder / "principles.yaml"

    def policy(self, **changes: Any) -> None:
        self.task = self.task.model_copy(update={"policy": self.task.policy.model_copy(update=changes)})

    def becomes(self, moment: Moment, **changes: Any) -> None:
        self.task = self.task.model_copy(update={"moment": moment, **changes})

    def ask_for(self, *principles: dict[str, Any]) -> None:
        self.principles.write_text(yaml.safe_dump({"principles": list(principles)}))

    def kept(self, path: str) -> Any:
        content = self.store.read(path)
        return None if content is None else json.loads(content)

    async def check(self, **changes: Any) -> Check:
        """Run one until it is over."""
        settings = Settings(Identity("team", "prod", "pod", reports_url="http://operator"), self.task, self.principles, self.folder)
        over = asyncio.Event()
        around = Surroundings("boot", self.environ, lambda: 1_800_000_000.0, Random(1), lambda *_: self.store, self._sleep)  # noqa: S311
        made = Check(settings, replace(around, **changes), over.set)
        running = asyncio.create_task(made.run())
        async with asyncio.timeout(10):
            await over.wait()
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return made

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


def task(folder: Path, doors: str, vectors: str) -> DriftTask:
    """Of a check before activation."""
    token = folder / "token"
    token.write_text(f"{TOKEN}\n")
    embeddings = Embeddings(url=f"http://{vectors}/v1", model=MODEL, retry=Retry(attempts=3, pause_seconds="0.5"))
    return DriftTask(
        endpoint="prod",
        domain="dsl",
        gate=7,
        adapter_uid="uid",
        moment=Moment.BEFORE,
        attempt=1,
        server=doors,
        token_file=str(token),
        incumbent=INCUMBENT,
        candidate=CANDIDATE,
        policy=DriftPolicy(principles="team-principles", embeddings=embeddings),
        store=f"file://{folder}/store",
    )
