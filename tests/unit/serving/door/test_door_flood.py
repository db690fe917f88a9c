"""What somebody who tries tokens, or knocks for nothing, costs the others. Each address of 127.0.0.0/8 is another caller to nginx."""

from __future__ import annotations

import asyncio
import time

from graft_api.dataplane import DRAIN_PATH, LIVE_PATH, NOT_STARTED_HEADER

CHAT = "/v1/chat/completions"
TOKEN, OTHER_TOKEN = "a.b.c", "d.e.f"


async def forge(door, address: str, number: int) -> list[int]:
    """Try so many tokens, each another one, on one connection. Returns what was answered."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    tokens = [f"{address}-{count}".replace(".", "_") for count in range(number)]
    requests = [f"{head}Authorization: Bearer forged.{token}.x\r\n\r\n" for token in tokens]
    requests.append(f"{head}Connection: close\r\n\r\n")
    answered = await door.exchange("".join(requests).encode(), address)
    statuses = [int(part[:3]) for part in answered.split(b"HTTP/1.1 ")[1:]]
    assert len(statuses) == number + 1
    return statuses[:-1]


async def test_a_forger_is_asked_about_no_more_than_its_share_and_no_gateway_notices(door):
    door.answers[OTHER_TOKEN] = door.answers[TOKEN]
    assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    began = time.monotonic()
    forger = asyncio.create_task(forge(door, "127.0.0.2", 1500))
    known, others = [], []
    while not forger.done():
        known.append((await door.ask("POST", CHAT, TOKEN)).status)
        others.append((await door.ask("POST", CHAT, OTHER_TOKEN, address="127.0.0.3")).status)
    assert (await door.ask("GET", LIVE_PATH)).status == 200
    share = 200 + 20 * (time.monotonic() - began) + 2
    assert set(known) == set(others) == {200}
    assert set(await forger) == {401, 503}
    assert len(door.asked) - 2 <= share
    assert (door.asked.count(TOKEN), door.asked.count(OTHER_TOKEN)) == (1, 1)
    assert len(door.vllm.seen) >= len(known) + len(others)


async def test_many_forgers_have_one_share_together_and_a_gateway_that_is_known_has_no_part_in_it(door):
    assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    began = time.monotonic()
    await asyncio.gather(*(forge(door, f"127.0.1.{number}", 150) for number in range(1, 7)))
    asked = len(door.asked) - 1
    share = 400 + 200 * (time.monotonic() - began) + 2
    newcomer = await door.ask("POST", CHAT, "n.e.w", address="127.0.2.1")
    assert (newcomer.status, newcomer.headers.get(NOT_STARTED_HEADER)) in {(503, "1"), (401, None)}
    assert (await door.ask("POST", CHAT, TOKEN)).status == 200
    assert asked <= share


async def test_a_caller_who_is_told_that_the_door_is_busy_leaves_no_line_in_the_log(door):
    await forge(door, "127.0.0.2", 300)
    assert (door.directory.parent / "door.log").read_bytes() == b""


async def test_who_knocks_for_nothing_reaches_neither_vllm_nor_the_agent_for_long_and_the_kubelet_does(door):
    for path in (LIVE_PATH, DRAIN_PATH):
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\n"
        answered = await door.exchange((f"{head}\r\n" * 50 + f"{head}Connection: close\r\n\r\n").encode(), "127.0.0.2")
        statuses = [int(part[:3]) for part in answered.split(b"HTTP/1.1 ")[1:]]
        assert (len(statuses), set(statuses)) == (51, {200, 429})
        assert statuses.count(200) < 30
        assert (await door.ask("GET", path)).status == 200


async def test_only_so_many_wait_at_once_on_an_open_route(door):
    gate = asyncio.Event()

    async def wait(_):
        await gate.wait()
        raise ConnectionError

    door.agent.handler = wait
    waiting = [asyncio.create_task(door.ask("GET", DRAIN_PATH, address="127.0.0.2")) for _ in range(7)]
    done, held = await asyncio.wait(waiting, timeout=0.3)
    assert ([task.result().status for task in done], len(held)) == ([429] * 3, 4)
    gate.set()
    await asyncio.gather(*held)
