"""What tests of every kind may use."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import HTTPServer
from typing import TypeVar

import pytest

Server = TypeVar("Server", bound=HTTPServer)


def pytest_collection_finish() -> None:
    """All that was imported stays: walking it again and again for cycles would cost more than many a test."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def in_thread() -> Iterator[Callable[[Server], Server]]:
    """Have a server serve until the test is over; returns it."""
    with ExitStack() as stack:

        def serve(server: Server) -> Server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            for undo in (server.server_close, thread.join, server.shutdown):  # the last one first
                stack.callback(undo)
            return server

        yield serve


@pytest.fixture
def collector_as_it_was() -> Iterator[None]:
    """Put the collector of cycles back: a process of graft sets it at its start. What it has frozen with the rest stays."""
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
