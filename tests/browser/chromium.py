"""Headless Chromium, spoken to in its own protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
FLAGS = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--no-sandbox",  # as root, in a container, there is none; the page is ours
)


def installed() -> str | None:
    """Return the program, or None. `CHROMIUM` names one that is not on PATH."""
    return os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)


class Tab:
    """One tab. `events` holds everything that it told."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._asked = 0
        self.events: list[dict[str, Any]] = []

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        await self._socket.send_json({"id": self._asked, "method": method, "params": parameters})
        while True:
            told = await self._socket.receive_json(timeout=20)
            if told.get("id") == self._asked:
                assert "error" not in told, told
                return dict(told["result"])
            self.events.append(told)

    async def open(self, url: str, *, width: int, dark: bool = False, height: int = 900) -> None:
        """Open a page and wait until it is loaded."""
        for part in ("Page", "Network", "Runtime", "Log"):
            await self.ask(f"{part}.enable")
        await self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        await self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.events.clear()
        await self.ask("Page.navigate", url=url)
        while not self.said("Page.loadEventFired"):
            self.events.append(await self._socket.receive_json(timeout=20))

    async def value(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        found = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def picture(self) -> bytes:
        """Return the whole page as PNG."""
        return base64.b64decode((await self.ask("Page.captureScreenshot", captureBeyondViewport=True))["data"])

    def said(self, method: str) -> list[dict[str, Any]]:
        """Return the events of one kind."""
        return [event["params"] for event in self.events if event.get("method") == method]


@contextmanager
def started(folder: Path) -> Iterator[int]:
    """Start Chromium with `folder` for its own, yield the port of its protocol, and end it with all its processes."""
    program = installed()
    assert program is not None
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], start_new_session=True, **quiet)
    try:
        yield _port(folder / "DevToolsActivePort", process)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 30
    while not (file.is_file() and file.read_text().count("\n")):
        assert process.poll() is None, "Chromium ended"
        assert time.monotonic() < deadline, "Chromium opens no port"
        time.sleep(0.02)
    return int(file.read_text().split("\n")[0])


@asynccontextmanager
async def tab(port: int) -> AsyncIterator[Tab]:
    """Yield the tab that a new Chromium has."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
            pages = [page for page in await response.json() if page["type"] == "page"]
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            yield Tab(socket)
