"""
The gateway's data path, put together: everything between a client's connection and a pod's.

`apply` takes routes, `pods` takes what discovery knows, `in_flight` and `pods.reach()` are what is reported.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from graft_api.dataplane import BASE_NAME
from graft_api.fleet import Trip
from graft_api.routes import Routes
from graft_api.tee import Tee
from graft_serving.gateway.access import AccessLog
from graft_serving.gateway.exchange import Observer
from graft_serving.gateway.keys import ApiKeys
from graft_serving.gateway.limits import HeldBytes
from graft_serving.gateway.metrics import GatewayMetrics
from graft_serving.gateway.passing import Passing
from graft_serving.gateway.pods import Pods
from graft_serving.gateway.relay import Relay
from graft_serving.gateway.server import GatewayServer
from graft_serving.gateway.settings import Settings
from graft_serving.gateway.table import compile_table
from graft_serving.gateway.tee import ExchangeTee
from graft_serving.gateway.tee_metrics import TeeMetrics
from graft_serving.gateway.tee_queue import TeeQueue
from graft_serving.gateway.tee_sender import TeeSender
from graft_serving.gateway.trip_wires import TripWires
from graft_serving.gateway.upstream import Connections
from graft_serving.rotated_file import token_file


@dataclass(frozen=True)
class Mirroring:
    """What the endpoint's collector is told."""

    exchanges: ExchangeTee
    queue: TeeQueue
    sender: TeeSender
    metrics: TeeMetrics

    def apply(self, tee: Tee | None) -> None:
        """Tell that collector from now on, or none."""
        self.exchanges.apply(tee)
        self.sender.point(tee.collector if tee else None)


@dataclass(frozen=True)
class DataPath:
    """The parts that the process runs and others look at."""

    settings: Settings
    pods: Pods
    relay: Relay
    server: GatewayServer
    keys: ApiKeys
    metrics: GatewayMetrics
    access: AccessLog
    connections: Connections
    bodies: HeldBytes
    tee: Mirroring
    wires: TripWires

    def apply(self, routes: Routes) -> None:
        """Route every later request by `routes`."""
        self.relay.apply(self.wires.apply(compile_table(routes)))
        self.pods.balance(routes.gateway.balancing)
        self.tee.apply(routes.tee)

    def in_flight(self) -> dict[str, int]:
        """Return requests under way by version, `base` included."""
        return self.relay.in_flight()

    def reach(self) -> dict[str, int]:
        """Return on how many pods each version is, `base` included."""
        return self.pods.reach()

    async def start(self) -> None:
        """Listen for clients."""
        self.keys.look()
        await self.server.listen(self.settings.host, self.settings.port)

    async def drain(self) -> None:
        """End well, within `accept_seconds` + `grace_seconds` + `flush_seconds`."""
        await self.server.drain(self.settings.accept_seconds, self.settings.grace_seconds)
        await self.server.close()
        await self.tee.sender.flush(self.settings.flush_seconds)
        await self.close()

    async def close(self) -> None:
        """End now."""
        await self.server.close()
        self.connections.close()
        self.tee.sender.close()


def build_data_path(
    settings: Settings,
    random: Random,
    boot: str,
    clock: Callable[[], float] = time.monotonic,
    observers: Sequence[Observer] = (),
    news: Callable[[], None] = lambda: None,
) -> DataPath:
    """
    Wire one gateway's data path.

    `boot` is this process's own; `clock` counts seconds, as the event loop's does; `observers` are told of every request's end, and
    `news` is called when a version was taken out.
    """
    connections = Connections(settings.connect_seconds)
    pods = Pods(clock, random, removed=connections.forget)
    metrics = GatewayMetrics(pods.all, lambda: (table.epoch, table.revision) if (table := relay.table) else None)
    access = AccessLog(sys.stdout.buffer, time.time, metrics.dropped_log_lines)
    passing = Passing(pods, connections, token_file(settings.door_token_file).read, clock)
    tee = build_tee(settings, random, boot, clock)
    relay = Relay(pods, passing, metrics, tee.exchanges, clock)
    wires = build_trip_wires(relay, pods, metrics, clock, news)
    keys = ApiKeys(settings.keys_directory)
    bodies = HeldBytes(settings.memory_bytes)
    server = GatewayServer(relay, keys, (metrics, access, tee.exchanges, wires, *observers), clock, random, bodies)
    return DataPath(settings, pods, relay, server, keys, metrics, access, connections, bodies, tee, wires)


def build_trip_wires(relay: Relay, pods: Pods, metrics: GatewayMetrics, clock: Callable[[], float], news: Callable[[], None]) -> TripWires:
    """Wire what takes versions out."""

    def tripped(trip: Trip) -> None:
        metrics.tripped(trip.domain)
        news()

    return TripWires(relay.replace, lambda: BASE_NAME in pods.reach(), tripped, clock, time.time)


def build_tee(settings: Settings, random: Random, boot: str, clock: Callable[[], float]) -> Mirroring:
    """Wire what tells the collector."""
    queue = TeeQueue(clock)
    exchanges = ExchangeTee(queue, time.time)
    connections = Connections(settings.connect_seconds)
    sender = TeeSender(queue, connections, token_file(settings.collector_token_file).read, boot, random)
    return Mirroring(exchanges, queue, sender, TeeMetrics(queue, exchanges))
