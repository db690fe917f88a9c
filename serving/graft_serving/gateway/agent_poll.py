"""
One server pod, seen from the gateway: a long poll of its agent's state, for as long as the pod is known.

    answers                       the pod is what its agent says
    its door answers, not the agent   the pod stays what it was, for a while: vLLM serves, only the agent is being restarted
    nothing answers, twice        the pod serves nothing until its agent says otherwise
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from random import Random

import aiohttp

from graft_api.dataplane import STATE_PATH
from graft_api.fleet import ATTEMPT_SECONDS, AgentState
from graft_serving.backoff import Backoff
from graft_serving.rotated_file import RotatedFile
from graft_serving.trouble import Trouble

AGENT_AWAY = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})
"""What the door answers by itself while nobody is at the agent's socket."""


@dataclass(frozen=True)
class PollTimes:
    """Seconds."""

    connect: float = 2.0
    answer: float = 30.0
    """The agent answers after 20 at the latest."""
    agent_away: float = ATTEMPT_SECONDS + 30.0
    """
    For so long a pod keeps what it had while its door answers and its agent does not. An agent that was restarted says nothing
    before its attempt to load is over, while vLLM serves on.
    """
    first_pause: float = 0.1
    longest_pause: float = 2.0
    apart: float = 0.5
    """Between two polls where the second brought nothing new: an agent that does not wait must not be asked in a circle."""
    remind: float = 60.0


class Unreachable(Exception):  # noqa: N818 - says what is the case
    """The pod did not say its state. `door`: something at its address did answer, so the pod itself is up."""

    def __init__(self, message: str, *, door: bool = False) -> None:
        super().__init__(message)
        self.door = door


class AgentPoll:
    """`run` calls `say(serving, versions)` with every answer and when none comes any more. It never ends by itself."""

    def __init__(
        self,
        address: str,
        session: aiohttp.ClientSession,
        token: RotatedFile[str],
        say: Callable[[bool, frozenset[str]], None],
        random: Random,
        times: PollTimes,
    ) -> None:
        self._url = f"http://{address}{STATE_PATH}"
        self._session = session
        self._token = token
        self._say = say
        self._times = times
        self._backoff = Backoff(times.first_pause, times.longest_pause, random)
        self._trouble = Trouble(f"agent at {address}", times.remind)
        self._known: AgentState | None = None
        self._failures = 0
        self._away_since: float | None = None

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            began = _now()
            try:
                state = await self._ask()
            except Unreachable as problem:
                self._failed(problem)
                await asyncio.sleep(self._backoff.next())
                continue
            if state == self._known and _now() - began < self._times.apart:
                await asyncio.sleep(self._times.apart)
            self._answered(state)

    def _answered(self, state: AgentState) -> None:
        self._trouble.over()
        self._backoff.reset()
        self._failures, self._away_since = 0, None
        self._known = state
        # Unchanged, too: what a request found missing on the pod counts until its agent has spoken again.
        self._say(state.serving, frozenset(state.versions) if state.serving else frozenset())

    def _failed(self, problem: Unreachable) -> None:
        self._trouble.met(str(problem))
        self._failures += 1
        now = _now()
        if problem.door:
            self._failures = 0
            self._away_since = now if self._away_since is None else self._away_since
        gone = self._failures >= 2 or (self._away_since is not None and now - self._away_since > self._times.agent_away)
        if gone and self._known is not None:
            self._known = None
            self._say(False, frozenset())

    async def _ask(self) -> AgentState:
        """
        Wait for news, or after any failure ask for the state as it is now: an agent that was restarted counts from one again,
        and could wait for a change that we have missed.
        """
        fresh = self._known is None or self._failures or self._away_since is not None
        query = {} if fresh or self._known is None else {"after": str(self._known.generation)}
        limits = aiohttp.ClientTimeout(total=self._times.answer, sock_connect=self._times.connect)
        try:
            headers = {"Authorization": f"Bearer {self._token.read()}"}
            async with self._session.get(self._url, params=query, headers=headers, timeout=limits, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    raise Unreachable(f"status {response.status}", door=response.status in AGENT_AWAY)
                return AgentState.model_validate_json(await response.read(), extra="ignore")  # of a newer version, perhaps
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(type(error).__name__) from error


def _now() -> float:
    return asyncio.get_running_loop().time()
