"""Zygotes for one scorer: as many as may judge at the same time, started when they are first needed."""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

from graft_evaluation.sandbox.zygote import Ended, Limits

START_SECONDS = 60.0
END_SECONDS = 5.0
GRACE_SECONDS = 30.0
"""Beyond a child's wall time: a zygote that is silent for longer is ended."""
LONGEST_LINE = 16 * 1024 * 1024
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
"""All that a zygote inherits: no credentials of the process that scores."""


class SandboxLostError(RuntimeError):
    """The process that judges did not start, ended or fell silent."""


@dataclass(frozen=True)
class Program:
    """What a zygote does."""

    name: str
    settings: dict[str, Any]
    limits: Limits


class SandboxPool:
    """Runs texts, at most `size` at a time; one that waits costs nothing but its place."""

    def __init__(self, program: Program, size: int) -> None:
        self._program = program
        self._places = asyncio.Semaphore(size)
        self._idle: list[asyncio.subprocess.Process] = []

    async def run(self, text: str) -> Ended:
        """Return how the child ended. Raises `SandboxLostError` if there is no telling."""
        async with self._places:
            zygote = self._idle.pop() if self._idle else await self._start()
            try:
                async with asyncio.timeout(self._program.limits.wall_seconds + GRACE_SECONDS):
                    ended = Ended(**await _ask(zygote, {"text": text}))
            except (TimeoutError, OSError, ValueError) as error:
                raise SandboxLostError(f"{self._program.name}: the process that judges ended or fell silent") from error
            else:
                self._idle.append(zygote)
                return ended
            finally:
                # Whoever was cancelled leaves an answer that nobody waits for: the next one would be told it.
                if zygote not in self._idle:
                    await _end(zygote)

    async def aclose(self) -> None:
        idle, self._idle = self._idle, []
        for zygote in idle:
            await _end(zygote)

    async def _start(self) -> asyncio.subprocess.Process:
        zygote = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-m", "graft_evaluation.sandbox.zygote"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd=os.sep,
            limit=LONGEST_LINE,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                config = {"program": self._program.name, "settings": self._program.settings, "limits": asdict(self._program.limits)}
                await _ask(zygote, config)
        except (TimeoutError, OSError, ValueError) as error:
            await _end(zygote)
            raise SandboxLostError(f"{self._program.name}: the process that judges did not start") from error
        except BaseException:
            await _end(zygote)
            raise
        return zygote


async def _ask(zygote: asyncio.subprocess.Process, value: dict[str, Any]) -> dict[str, Any]:
    """Raises OSError or ValueError where no whole line comes back."""
    assert zygote.stdin and zygote.stdout  # noqa: S101, PT018 - pipes
    zygote.stdin.write(json.dumps(value).encode() + b"\n")
    await zygote.stdin.drain()
    found: dict[str, Any] = json.loads(await zygote.stdout.readline())
    return found


async def _end(zygote: asyncio.subprocess.Process) -> None:
    """Ask it to go and to take along what it runs; then insist."""
    assert zygote.stdin  # noqa: S101 - a pipe
    zygote.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        zygote.terminate()
    try:
        async with asyncio.timeout(END_SECONDS):
            await zygote.wait()
    except TimeoutError:
        zygote.kill()
        await zygote.wait()
