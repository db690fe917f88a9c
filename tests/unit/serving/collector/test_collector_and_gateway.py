"""The gateway's own tee, and the collector that it talks to."""

import asyncio
import json
import time
from random import Random

import pytest
from collector_world import NEW, OLD, Does, chat, committed, key

from graft_api.schema import parse
from graft_api.tee import Tee
from graft_evaluation.pairs.contrasts import PRODUCTION
from graft_serving.gateway.errors import Cause
from graft_serving.gateway.exchange import Exchange
from graft_serving.gateway.tee import ExchangeTee
from graft_serving.gateway.tee_queue import TeeQueue
from graft_serving.gateway.tee_sender import TeeSender
from graft_serving.gateway.trace import Trace
from graft_serving.gateway.upstream import Connections


class Gateway:
    def __init__(self, loop):
        self._clock = loop.time
        self._queue = TeeQueue(loop.time)
        self._tee = ExchangeTee(self._queue, time.time)
        self.sender = TeeSender(self._queue, Connections(1.0), lambda: "t", "boot-1", Random(1))  # noqa: S311

    def point(self, address):
        measuring = [{"domain": "dsl", "share": 10_000, "salt": "s"}]
        self._tee.apply(parse(Tee, {"collector": address, "domains": measuring}))
        self.sender.point(address)

    def serves(self, prompt, answer, conversation, **changes):
        now = self._clock()
        exchange = Exchange("chat", f"r-{prompt}", Trace("0" * 32, "00-0-0-01", None), now - 0.5)
        exchange.domain, exchange.wanted, exchange.version, exchange.pod = "dsl", OLD, OLD, "pod-a"
        exchange.conversation, exchange.status = bytes.fromhex(key(conversation)), 200
        exchange.first_byte, exchange.ended, exchange.tokens_out = now - 0.3, now, 7
        for name, value in changes.items():
            setattr(exchange, name, value)
        body = {"model": "dsl", "messages": [{"role": "user", "content": prompt}]}
        self._tee.choose(exchange, json.dumps(body).encode(), body, 1, named=False)
        if exchange.mirrored:
            exchange.mirrored.keep(json.dumps(chat(answer)).encode())
        self._tee.completed(exchange)


@pytest.fixture
async def gateway():
    made = Gateway(asyncio.get_running_loop())
    running = asyncio.ensure_future(made.sender.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    made.sender.close()


async def test_what_the_gateway_tells_becomes_pairs(gateway, shadow, start, tmp_path):
    world = await start(content="Full")
    shadow.does = lambda version, prompt: Does("yes" if version == NEW else "no")
    gateway.point(world.url.removeprefix("http://"))
    for index in range(20):
        gateway.serves(f"q{index}", "no", f"c{index}")
    gateway.serves("left", "no", "c1", status=499, cause=Cause.CLIENT_GONE)
    gateway.serves("nobody", "", "c2", status=503, cause=Cause.NO_POD, version="", pod="")
    await gateway.sender.flush(1.5)
    await world.idle()
    await world.commit()
    chain, lines = committed(tmp_path / "store", world.compare)
    assert len(lines) == 20
    line = next(line for line in lines if line.request_id == "r-q3")
    assert line.values[PRODUCTION]["wrong"] == (1.0, 0.0)
    assert (line.conversation, line.production.tokens) == (key("c3"), 7)
    assert line.production.seconds == pytest.approx(0.5)
    assert abs(line.at - time.time()) < 5
    exclusions = dict(chain.total.sums[PRODUCTION].summary.tallies.exclusions)
    assert exclusions == {("client-left", "Both"): 1, ("production-failed", "Incumbent"): 1}
    assert not world.journal.numbers.lost(time.time() + 1000)
