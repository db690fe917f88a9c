"""
Reports to the operator: always the whole picture, always the newest.

    client = OperatorClient(...);  client.changed();  await client.run(picture)

A report that is lost is harmless, for the next one says the same and more. So nothing is queued: while the operator is away
there is one picture that is not sent yet, and it is taken when it can be sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Literal

import aiohttp

from graft_api.collect import CollectorReport
from graft_api.drift import DriftReport
from graft_api.fleet import REPORT_SECONDS, AgentReport, GatewayReport
from graft_api.schema import canonical_json
from graft_serving.backoff import Backoff
from graft_serving.rotated_file import RotatedFile, authority_file, token_file
from graft_serving.trouble import Trouble

Role = Literal["agent", "gateway", "collector", "drift"]
Report = AgentReport | GatewayReport | CollectorReport | DriftReport
Picture = Callable[[int], Report]
"""Builds the report with the given sequence number, of this moment."""


@dataclass(frozen=True)
class ReportTimes:
    """Seconds."""

    every: float = REPORT_SECONDS
    apart: float = 0.2
    """At least, between two reports: changes in between go into one."""
    connect: float = 3.0
    answer: float = 5.0
    first_pause: float = 0.2
    longest_pause: float = 5.0
    remind: float = 60.0


@dataclass(frozen=True)
class ReportTarget:
    """Where one process's reports go, and how it proves who it is."""

    url: str
    token: RotatedFile[str]
    authority: RotatedFile[ssl.SSLContext] | None


def report_target(base: str, namespace: str, endpoint: str, role: Role, directory: Path) -> ReportTarget:
    """Return the target of a pod's reports; `directory` holds token and ca.crt."""
    url = f"{base.rstrip('/')}/v1/namespaces/{namespace}/modelendpoints/{endpoint}/{role}"
    authority = authority_file(directory / "ca.crt") if url.startswith("https:") else None
    return ReportTarget(url, token_file(directory / "token"), authority)


class OperatorClient:
    """One process's reports. Nothing here ever waits on the data path: `changed` only sets a flag."""

    def __init__(self, target: ReportTarget, random: Random, times: ReportTimes | None = None) -> None:
        self._target = target
        self._times = times or ReportTimes()
        self._backoff = Backoff(self._times.first_pause, self._times.longest_pause, random)
        self._trouble = Trouble("reports to the operator", self._times.remind)
        self._changed = asyncio.Event()
        self._sequence = 0
        self.delivered = 0
        """The last sequence number that the operator has acknowledged."""

    def changed(self) -> None:
        """There is something new to report."""
        self._changed.set()

    async def run(self, picture: Picture) -> None:
        """Report until cancelled: on every change, and at least every `REPORT_SECONDS`."""
        while True:
            # A session lasts until the first problem: a replica that does not lead any more would get every retry over the
            # connection that was kept alive, past the Service, for ever.
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(keepalive_timeout=30)) as session:
                while (problem := await self._report(session, picture)) is None:
                    await self._quiet()
            self._trouble.met(problem)
            await asyncio.sleep(self._backoff.next())

    async def _report(self, session: aiohttp.ClientSession, picture: Picture) -> str | None:
        self._changed.clear()
        self._sequence += 1
        problem = await self._send(session, picture(self._sequence))
        if problem is None:
            self.delivered = self._sequence
            self._trouble.over()
            self._backoff.reset()
        return problem

    async def _quiet(self) -> None:
        await asyncio.sleep(self._times.apart)
        try:
            async with asyncio.timeout(self._times.every - self._times.apart):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _send(self, session: aiohttp.ClientSession, report: Report) -> str | None:
        """Return what went wrong, None if nothing did."""
        timeout = aiohttp.ClientTimeout(total=self._times.answer, sock_connect=self._times.connect)
        try:
            headers = {"Authorization": f"Bearer {self._target.token.read()}", "Content-Type": "application/json"}
            tls = self._target.authority.read() if self._target.authority else True
            body = canonical_json(report.to_json())
            async with session.post(
                self._target.url, data=body, headers=headers, ssl=tls, timeout=timeout, allow_redirects=False
            ) as response:
                return None if response.status in {HTTPStatus.OK, HTTPStatus.NO_CONTENT} else f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            return type(error).__name__
