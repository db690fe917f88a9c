"""What the agent says of its pod, to gateways and to the operator: one picture, and whoever waits for the next one."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from graft_api.fleet import AgentReport, AgentState, VersionReport, VersionState
from graft_serving.agent.plan import Progress

ServerState = Literal["Starting", "Serving", "Down", "Draining"]


@dataclass(frozen=True)
class Picture:
    """All of it, at one moment."""

    epoch: int = 0
    revision: int = 0
    server: ServerState = "Starting"
    server_starts: int = 0
    attempted: bool = False
    """One bounded attempt at what is routed was made since vLLM came up: who asks for a domain does not get the base model because
    its adapter is still being loaded again."""
    base_digest: str | None = None
    versions: Sequence[Progress] = ()
    unloading: Sequence[str] = ()
    """What vLLM has besides, or may have."""

    @property
    def ready(self) -> list[str]:
        """Versions that may be asked for here."""
        if self.server not in {"Serving", "Draining"}:
            return []
        return [item.name for item in self.versions if item.state is VersionState.READY]


class Board:
    """Holds the picture. `changed` is called on every change, and must not wait."""

    def __init__(self, boot: str, changed: Callable[[], None], generation: int = 1) -> None:
        """
        Begin at `generation`, which is another one in every process: a gateway waits for the end of the one that it knows, and
        must not find it again, with other content, in an agent that was restarted.
        """
        self._boot = boot
        self._changed = changed
        self._next = asyncio.Event()
        self.picture = Picture()
        self.generation = generation
        self.opened = False
        """Whether gateways may know. An agent that was restarted beside a vLLM that serves says nothing before it has tried what is
        routed: until then they go by what they know, and no request is turned away. Once open, it says what is."""

    def show(self, picture: Picture) -> None:
        """Take over a new picture."""
        if picture == self.picture:
            return
        before, self.picture = self._said(), picture
        if self._said() != before:
            self.generation += 1
            self._next.set()
            self._next = asyncio.Event()
        self._changed()

    def open(self) -> None:
        """Tell gateways from now on."""
        self.opened = True

    async def state(self, after: int | None, seconds: float) -> AgentState:
        """Return the state; if it is still generation `after`, the next one or, at the latest after `seconds`, the same."""
        if after == self.generation:
            try:
                async with asyncio.timeout(seconds):
                    await self._next.wait()
            except TimeoutError:
                pass
        serving, versions = self._said()
        return AgentState(boot=self._boot, generation=self.generation, serving=serving, versions=versions)

    def report(self, sequence: int) -> AgentReport:
        """Return the report to the operator."""
        picture = self.picture
        return AgentReport(
            boot=self._boot,
            sequence=sequence,
            epoch=picture.epoch,
            revision=picture.revision,
            server=picture.server,
            server_starts=picture.server_starts,
            base_digest=picture.base_digest,
            versions=[*map(_report, picture.versions), *map(_leaving, picture.unloading)],
        )

    def _said(self) -> tuple[bool, list[str]]:
        return self.picture.server == "Serving" and self.picture.attempted, self.picture.ready


def _leaving(name: str) -> VersionReport:
    return VersionReport(name=name, state=VersionState.UNLOADING)


def _report(item: Progress) -> VersionReport:
    return VersionReport(
        name=item.name,
        digest=item.version.digest,
        state=item.state,
        reason=item.reason,
        message=item.message,
        probe=item.probe,
        weak=item.weak,
        seconds=dict(item.seconds),
    )
