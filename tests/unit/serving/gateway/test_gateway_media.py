"""Media by URL: vLLM would fetch them from inside the cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graft_api.routes import GatewaySettings
from graft_serving.gateway.errors import Refusal
from graft_serving.gateway.requests import APIS, read_request

INSIDE = "http://169.254.169.254/latest/meta-data"


def read(path: str, hosts: tuple[str, ...] = (), **body: Any) -> None:
    read_request(APIS[path], json.dumps({"model": "dsl"} | body).encode(), hosts)


def said(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": "system", "content": "s"}, {"role": role, "content": [{"type": "text", "text": "what is this"}, *parts]}]


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
BLOCK = {"type": "image", "source": {"type": "url", "url": INSIDE}}
REMOTE = {
    "chat image": (CHAT, {"messages": said(image(INSIDE))}),
    "chat image, short form": (CHAT, {"messages": said({"type": "image_url", "image_url": INSIDE})}),
    "chat image without a type": (CHAT, {"messages": said({"image_url": INSIDE})}),
    "chat image under another type": (CHAT, {"messages": said({"type": "text", "text": "x", "uuid": "u", "image_url": {"url": INSIDE}})}),
    "chat video": (CHAT, {"messages": said({"type": "video_url", "video_url": {"url": INSIDE}})}),
    "chat audio": (CHAT, {"messages": said({"type": "audio_url", "audio_url": {"url": INSIDE}})}),
    "chat input_audio": (CHAT, {"messages": said({"type": "input_audio", "input_audio": {"url": INSIDE, "format": "wav"}})}),
    "chat answer of a tool": (CHAT, {"messages": said(image(INSIDE), role="tool")}),
    "responses image": (RESPONSES, {"input": said({"type": "input_image", "image_url": INSIDE})}),
    "responses file": (RESPONSES, {"input": said({"type": "input_file", "file_url": INSIDE})}),
    "responses output of a call": (
        RESPONSES,
        {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": INSIDE}]}]},
    ),
    "responses screenshot": (
        RESPONSES,
        {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": INSIDE}}]},
    ),
    "messages image": (MESSAGES, {"messages": said(BLOCK)}),
    "messages document": (MESSAGES, {"messages": said({"type": "document", "source": {"type": "url", "url": INSIDE}})}),
    "messages image in a document": (
        MESSAGES,
        {"messages": said({"type": "document", "source": {"type": "content", "content": [BLOCK]}})},
    ),
    "messages result of a tool": (MESSAGES, {"messages": said({"type": "tool_result", "tool_use_id": "t", "content": [BLOCK]})}),
}


@pytest.mark.parametrize(("path", "body"), REMOTE.values(), ids=REMOTE)
def test_no_api_lets_a_url_through(path: str, body: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as refused:
        read(path, **body)
    assert (refused.value.status, refused.value.param) == (400, "input" if path == RESPONSES else "messages")
    assert INSIDE not in refused.value.message
    read(path, ("169.254.169.254",), **body)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "HTTP://inside/x",
        " data:image/png;base64,AAAA",
        "ftp://inside/x",
        "//inside/x",
        "iVBORw0KGgo=",
        "",
        "http://inside/data:",
    ],
)
def test_only_data_is_data(url: str) -> None:
    with pytest.raises(Refusal):
        read(CHAT, messages=said(image(url)))


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "DATA:image/png;base64,AAAA"])
def test_what_the_request_itself_carries_is_served(url: str) -> None:
    read(CHAT, messages=said(image(url), {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}))
    read(RESPONSES, input=said({"type": "input_image", "image_url": url}))
    read(MESSAGES, messages=said({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}))


@pytest.mark.parametrize(
    ("url", "served"),
    [
        ("https://cdn.example.com/a.png", True),
        ("http://CDN.example.com:8080?a", True),
        ("https://cdn.example.com", True),
        ("https://other.example.com/a.png", False),
        ("https://cdn.example.com.evil.test/a.png", False),
        ("https://cdn.example.com@evil.test/a.png", False),
        ("https://cdn.example.com:80@evil.test/a.png", False),
        ("https://evil.test\\@cdn.example.com/a.png", False),
        ("https://cdn.example.com\\@evil.test/a.png", False),
        ("https://evil.test#@cdn.example.com/a.png", False),
        ("https://cdn.example.com\n.evil.test/a.png", False),
        ("\thttps://cdn.example.com/a.png", False),
        ("file://cdn.example.com/a.png", False),
    ],
)
def test_hosts_that_the_endpoint_names(url: str, served: bool) -> None:
    if served:
        read(CHAT, ("cdn.example.com",), messages=said(image(url)))
        return
    with pytest.raises(Refusal):
        read(CHAT, ("cdn.example.com",), messages=said(image(url)))


def test_words_are_no_media() -> None:
    read(CHAT, messages=[{"role": "user", "content": f"see {INSIDE}"}, {"role": "user", "content": None}, "x", 3])
    read(CHAT, messages=said({"type": "text", "text": INSIDE}, INSIDE, {"type": "image_url", "image_url": None}))
    read(MESSAGES, messages=said({"type": "search_result", "source": INSIDE, "title": "t", "content": [{"type": "text", "text": "x"}]}))
    read(RESPONSES, input=[{"type": "function_call_output", "call_id": "c", "output": INSIDE}])


def test_parts_in_parts_without_end_are_read_to_their_end() -> None:
    part: dict[str, Any] = image(INSIDE)
    for _ in range(200):
        part = {"type": "tool_result", "content": [part]}
    with pytest.raises(Refusal):
        read(MESSAGES, messages=said(part))


async def test_the_hosts_come_with_the_routes(make_world: Any, kit: Any) -> None:
    world = await make_world()
    body = kit.ask(messages=said(image("https://cdn.example.com/a.png")))
    async with world.post(body=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "unsupported_media_url"
    assert world.pods[0].seen == []
    world.path.apply(kit.make_routes(2, gateway=GatewaySettings(allowed_media_hosts=["cdn.example.com"])))
    async with world.post(body=body) as answer:
        assert answer.status == 200
