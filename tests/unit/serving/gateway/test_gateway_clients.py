"""The official clients of both APIs, as they are, through the gateway to a pod that speaks as vLLM does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
USER: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def world(make_world: Any) -> Any:
    return await make_world()


@pytest.fixture
async def client(world: Any, kit: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=world.url + "/v1", api_key=kit.KEY, max_retries=0) as made:
        yield made


@pytest.fixture
async def claude(world: Any, kit: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=world.url, api_key=kit.KEY, max_retries=0) as made:
        yield made


async def test_chat(client: openai.AsyncOpenAI) -> None:
    told = await client.chat.completions.create(model="dsl", messages=USER)
    assert (told.model, told.choices[0].message.content) == ("dsl", "Hello")


async def test_chat_stream(client: openai.AsyncOpenAI) -> None:
    chunks = [chunk async for chunk in await client.chat.completions.create(model="dsl", messages=USER, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert {chunk.model for chunk in chunks} == {"dsl"}


async def test_chat_stream_with_usage(client: openai.AsyncOpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = [c async for c in await client.chat.completions.create(model="dsl", messages=USER, stream=True, stream_options=options)]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


async def test_tools(client: openai.AsyncOpenAI) -> None:
    tools: Any = [TOOL]
    told = await client.chat.completions.create(model="dsl", messages=USER, tools=tools)
    calls: Any = told.choices[0].message.tool_calls
    assert calls[0].function.arguments == '{"model":"x"}'


async def test_tools_in_a_stream(client: openai.AsyncOpenAI) -> None:
    tools: Any = [TOOL]
    chunks = [c async for c in await client.chat.completions.create(model="dsl", messages=USER, tools=tools, stream=True)]
    calls: Any = chunks[0].choices[0].delta.tool_calls
    assert calls[0].function.arguments == '{"a": "data: x\\n\\n"}'


async def test_completions(client: openai.AsyncOpenAI) -> None:
    told = await client.completions.create(model="dsl", prompt="hi")
    assert (told.model, told.choices[0].text) == ("dsl", "Hello")
    texts = [chunk.choices[0].text async for chunk in await client.completions.create(model="dsl", prompt="hi", stream=True)]
    assert texts == ["Hel", "lo"]


async def test_responses(client: openai.AsyncOpenAI, world: Any) -> None:
    told = await client.responses.create(model="dsl", input="hi")
    assert (told.model, told.output_text) == ("dsl", "Hello")
    events = [event async for event in await client.responses.create(model="dsl", input="hi", stream=True)]
    last: Any = events[-1]
    assert (last.type, last.response.model) == ("response.completed", "dsl")
    assert all(body["store"] is False for _, _, body in world.pods[0].seen)


async def test_stored_responses_are_refused_clearly(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="store: this endpoint keeps no responses"):
        await client.responses.create(model="dsl", input="hi", store=True)
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        await client.responses.create(model="dsl", input="hi", previous_response_id="resp_1")


async def test_models(client: openai.AsyncOpenAI, claude: anthropic.AsyncAnthropic) -> None:
    assert [model.id async for model in client.models.list()] == ["base", "dsl"]
    assert (await client.models.retrieve("dsl")).id == "dsl"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("dsl-aaaaaaaaaaaaaaaa")
    assert [model.id async for model in claude.models.list()] == ["base", "dsl"]


async def test_errors_become_the_clients_own(client: openai.AsyncOpenAI, world: Any) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        await client.chat.completions.create(model="nothing", messages=USER)
    assert refused.value.code == "model_not_found"
    async with openai.AsyncOpenAI(base_url=world.url + "/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()


async def test_a_stream_that_breaks_raises(client: openai.AsyncOpenAI, world: Any, kit: Any) -> None:
    async def breaks(request: Any, _: dict[str, Any]) -> Any:
        response = await kit.stream(request, ['data: {"id":"1","model":"x","object":"chat.completion.chunk","created":1,"choices":[]}\n\n'])
        request.transport.abort()
        return response

    world.pods[0].behave = breaks
    with pytest.raises(openai.APIError, match="broke"):
        async for _ in await client.chat.completions.create(model="dsl", messages=USER, stream=True):
            pass


async def test_messages(claude: anthropic.AsyncAnthropic, world: Any) -> None:
    told: Any = await claude.messages.create(model="dsl", max_tokens=5, messages=USER)
    assert (told.model, told.content[0].text, told.usage.output_tokens) == ("dsl", "Hello", 2)
    async with claude.messages.stream(model="dsl", max_tokens=5, messages=USER) as stream:
        final = await stream.get_final_message()
    assert (final.model, await stream.get_final_text()) == ("dsl", "Hello")
    assert {exchange.tokens_out for exchange in world.recorder.all} == {2}


async def test_messages_with_tools(claude: anthropic.AsyncAnthropic) -> None:
    tools: Any = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    told: Any = await claude.messages.create(model="dsl", max_tokens=5, messages=USER, tools=tools)
    assert told.content[0].input == {"a": 1}


async def test_errors_in_the_other_dialect(claude: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as refused:
        await claude.messages.create(model="nothing", max_tokens=5, messages=USER)
    body: Any = refused.value.body
    assert body["error"]["type"] == "not_found_error"
