"""A server pod that speaks as vLLM 0.32 does, and a whole data path in front of such pods, on real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from graft_api.dataplane import INFERENCE_PATHS
from graft_api.routes import Arm, EndpointIdentity, GatewaySettings, Route, Routes, Version
from graft_serving.gateway.data_path import DataPath, build_data_path
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.settings import Settings

KEY = "sk-team-a"
OLD, NEW = "dsl-aaaaaaaaaaaaaaaa", "dsl-bbbbbbbbbbbbbbbb"

Behave = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def version(name: str) -> Version:
    return Version(name=name, domain="dsl", adapter="a", digest="sha256:" + "0" * 64, uri="s3://bucket/a", size_bytes=1)


def make_routes(revision: int = 1, *arms: Arm, fallback: str = "Base", gateway: GatewaySettings | None = None, **route: Any) -> Routes:
    arms = arms or (Arm(version=OLD),)
    return Routes(
        endpoint=EndpointIdentity(namespace="team", name="e", uid="12345678-1234-1234-1234-123456789abc"),
        epoch=1,
        revision=revision,
        max_loras=4,
        max_lora_rank=16,
        signing_keys=[],
        versions=[version(OLD), version(NEW)],
        routes=[Route(domain="dsl", revision=revision, salt="salt", arms=list(arms), fallback=fallback, **route)],
        gateway=gateway or GatewaySettings(),
    )


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass
class Vllm:
    """One pod. `behave` takes the place of vLLM's own way to answer."""

    name: str
    served: frozenset[str] = frozenset({OLD, NEW})
    behave: Behave | None = None
    address: str = ""
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((request.path, {name.lower(): value for name, value in request.headers.items()}, body))
        try:
            if self.behave:
                return await self.behave(request, body)
            return await self.answer(request, body)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] not in self.served | {"base"}:
            error = {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}
            return web.json_response({"error": error}, status=404)
        if body.get("stream"):
            return await stream(request, events(request.path, body))
        return web.Response(text=compact(whole(request.path, body)), content_type="application/json")


async def stream(request: web.Request, parts: list[str], pause: float = 0.0) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for part in parts:
        await response.write(part.encode())
        await asyncio.sleep(pause)
    return response


def whole(path: str, body: dict[str, Any]) -> dict[str, Any]:
    model, tool = body["model"], bool(body.get("tools"))
    if path == "/v1/chat/completions":
        call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"model":"x"}'}}
        message = {"role": "assistant", "content": None if tool else "Hello", "tool_calls": [call] if tool else []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls" if tool else "stop"}
        usage = {"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}
        return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    if path == "/v1/completions":
        usage = {"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2}
        choice = {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
    if path == "/v1/messages":
        content = [{"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}}] if tool else [{"type": "text", "text": "Hello"}]
        usage = {"input_tokens": 7, "output_tokens": 2}
        stop = "tool_use" if tool else "end_turn"
        return {"id": "m", "type": "message", "role": "assistant", "content": content, "model": model, "stop_reason": stop, "usage": usage}
    return response_object(model, "completed")


def response_object(model: str, status: str) -> dict[str, Any]:
    text = {"type": "output_text", "text": "Hello", "annotations": []}
    message = {"id": "msg", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
    usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }
    done = status == "completed"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": status,
        "output": [message] if done else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage if done else None,
    }


def events(path: str, body: dict[str, Any]) -> list[str]:
    model = body["model"]
    if path == "/v1/messages":
        return [named(event) for event in message_events(model)]
    if path == "/v1/responses":
        created = {"type": "response.created", "sequence_number": 0, "response": response_object(model, "in_progress")}
        delta = {
            "type": "response.output_text.delta",
            "sequence_number": 1,
            "item_id": "msg",
            "output_index": 0,
            "content_index": 0,
            "delta": "Hello",
            "logprobs": [],
        }
        completed = {"type": "response.completed", "sequence_number": 2, "response": response_object(model, "completed")}
        return [named(event) for event in (created, delta, completed)]
    return [f"data: {compact(chunk)}\n\n" for chunk in chunks(path, body)] + ["data: [DONE]\n\n"]


def named(event: dict[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {compact(event)}\n\n"


def message_events(model: str) -> list[dict[str, Any]]:
    start = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": model, "stop_reason": None}
    return [
        {"type": "message_start", "message": start | {"stop_sequence": None, "usage": {"input_tokens": 7, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"input_tokens": 7, "output_tokens": 2},
        },
        {"type": "message_stop"},
    ]


def chunks(path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    chat = path == "/v1/chat/completions"
    head = {"id": "1", "object": "chat.completion.chunk" if chat else "text_completion", "created": 1, "model": body["model"]}
    if chat and body.get("tools"):
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a": "data: x\\n\\n"}'}}
        deltas: list[dict[str, Any]] = [{"delta": {"role": "assistant", "tool_calls": [call]}}]
    elif chat:
        deltas = [{"delta": {"role": "assistant", "content": ""}}, {"delta": {"content": "Hel"}}, {"delta": {"content": "lo"}}]
    else:
        deltas = [{"text": "Hel"}, {"text": "lo"}]
    told: list[dict[str, Any]] = [
        head | {"choices": [{"index": 0, "finish_reason": "stop" if delta is deltas[-1] else None} | delta]} for delta in deltas
    ]
    if (body.get("stream_options") or {}).get("include_usage"):
        told.append(head | {"choices": [], "usage": {"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2}})
    return told


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[Exchange] = []

    def completed(self, exchange: Exchange) -> None:
        self.all.append(exchange)


@dataclass
class World:
    """A gateway, its pods, and a client."""

    path: DataPath
    pods: list[Vllm]
    recorder: Recorder
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.path.server.port}"

    def post(self, path: str = "/v1/chat/completions", body: Any = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {KEY}"} | options.pop("headers", {})
        if body is not None and not isinstance(body, bytes):
            options["json"] = body
        else:
            options["data"] = body
        return self.session.post(self.url + path, headers=headers, **options)

    def announce(self, pod: Vllm, *, serving: bool = True, versions: frozenset[str] | None = None) -> None:
        self.path.pods.update(pod.name, pod.address, serving, pod.served if versions is None else versions)


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "dsl", "messages": [{"role": "user", "content": "hi"}]} | more


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.005)


@pytest.fixture
async def make_world(tmp_path: Any) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    async with AsyncExitStack() as stack:

        async def make(pods: int = 1, routes: Routes | None = None, **settings: Any) -> World:
            servers = [await start_pod(stack, f"e-server-{number}") for number in range(pods)]
            (tmp_path / "keys").mkdir(exist_ok=True)
            (tmp_path / "keys" / "team-a").write_text("sha256:" + hashlib.sha256(KEY.encode()).hexdigest())
            (tmp_path / "token").write_text("door-token\n")
            defaults = Settings(host="127.0.0.1", port=0, keys_directory=tmp_path / "keys", door_token_file=tmp_path / "token")
            recorder = Recorder()
            path = build_data_path(Settings(**(vars(defaults) | settings)), Random(1), "boot", observers=[recorder])  # noqa: S311
            await path.start()
            stack.push_async_callback(path.close)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            world = World(path, servers, recorder, session)
            path.apply(routes or make_routes())
            for server in servers:
                world.announce(server)
            return world

        yield make


async def start_pod(stack: AsyncExitStack, name: str) -> Vllm:
    pod = Vllm(name)
    app = web.Application()
    for path in INFERENCE_PATHS:
        app.router.add_post(path, pod.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pod.address = f"127.0.0.1:{runner.addresses[0][1]}"
    return pod


@pytest.fixture
def kit() -> SimpleNamespace:
    """The words that tests need: this file cannot be imported."""
    return SimpleNamespace(
        KEY=KEY, OLD=OLD, NEW=NEW, ask=ask, until=until, stream=stream, make_routes=make_routes, compact=compact, unused_port=unused_port
    )


def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
