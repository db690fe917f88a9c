"""
An operator that is killed after any of its writes, and must come to the end that it would have come to anyway.

A world is a namespace with all parts but the operator played by hand: it can `start` a new operator process, `settle`, and `say_again` what
the data plane says every ten seconds. A new operator can `look_once` at everything, which is what its watches list when it leads.
"""

import asyncio
import logging

from graft_api.dataplane import version_name

EVENTS = "events"
"""In what a step comes to: who was told of what. A kill may lead to more, for its successor sees less at first; it loses none."""


class Crash(BaseException):
    """The process ends here."""


class Everything:
    """Policies are in place; what happens when they are not is tests/api/test_policies.py's."""

    missing_seconds = 0.0

    async def missing(self):
        return []


class Killable:
    """Of a world: what its operator has written, and whether it may write once more."""

    writes = 0
    writes_left = None

    def count_write(self):
        """Called before each write of the operator: with none left, the write before was its last."""
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise Crash
            self.writes_left -= 1
        self.writes += 1

    async def look_once(self):
        """One pass over each object, and no second one: no timer, no back-off and no resync has a part in it."""

    async def undone(self):
        """Return what is decided, in a record that says so, and not followed yet. Empty also where there is no such record."""
        return []


def behind(ledger, routes):
    """Return the domains that are not routed as the ledger says: to what serves and, while that is watched, to what is held back."""
    found = []
    for route in routes.routes:
        entry = ledger.domain(route.domain)
        serves = [entry.active, *([entry.previous] if entry.gate and entry.gate.watch else [])] if entry else [None]
        wanted = [version_name(route.domain, one.digest) if one else None for one in serves]
        if (routed := [arm.version for arm in route.arms]) != wanted:
            found.append(f"{route.domain} is routed to {routed} and not to {wanted}")
    return found


class Lines(logging.Handler):
    """The numbers of the transitions that the log tells of, of one endpoint. Each process says one once."""

    def __init__(self, endpoint):
        super().__init__()
        self.endpoint = endpoint
        self.told = set()
        logger = logging.getLogger("graft_operator.modelendpoint.audit")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record):
        if record.endpoint == self.endpoint:
            self.told.add((record.domain, record.ordinal, record.id))


async def same_ends(play, side_by_side):
    """
    Hold what every step comes to against the same step of a run without a kill, for a kill before every write of every step.

    `play(writes)`: what each step came to, and the writes of each. Worlds share nothing but the API server, so some run side by side.
    """
    expected, written = await play(None)
    assert max(written) > 0, "nothing is written"
    for first in range(0, max(written), side_by_side):
        batch = range(first, min(first + side_by_side, max(written)))
        for writes, (reached, _) in zip(batch, await asyncio.gather(*map(play, batch)), strict=True):
            for step, (end, wanted) in enumerate(zip(reached, expected, strict=True), 1):
                lost = wanted.get(EVENTS, set()) - end.get(EVENTS, set())
                assert not lost, f"killed after {writes} writes of every step, and not told after step {step}: {lost}"
                different = {name: (end[name], wanted[name]) for name in wanted if name != EVENTS and end[name] != wanted[name]}
                assert not different, f"killed after {writes} writes of every step, and different after step {step}: {different}"


async def killed_after(world, steps, outcome, writes):
    """
    The operator is killed after so many writes of every step, and its successor of the next one.

    A successor first hears nothing, and completes what was decided all the same, with its first look; then it hears what everybody says
    again. What a step comes to is looked at before the next one, so that
    a kill in one step hides nothing of the next: all begin with what the run without a kill has there, too.
    """
    ends, written = [], []
    for step in steps:
        before, world.writes_left = world.writes, writes
        await step(world)
        try:
            await world.settle()
        except Crash:
            world.writes_left = None
            world.start()
            await world.look_once()
            undone = await world.undone()
            assert not undone, f"killed after {writes} writes, and left undone by the first look of the next leader: {undone}"
            await world.settle()
            await world.say_again()
            await world.settle()
        world.writes_left = None
        written.append(world.writes - before)
        ends.append(await outcome(world))
    return ends, written
