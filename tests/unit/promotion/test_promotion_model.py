"""
A model check: whatever happens in whatever order, what must hold holds.

GRAFT_MODEL_EXAMPLES=2000 looks longer, at other ways each time. What is right is said here a second time, in other words and without
the code that is checked: numbers of events stand for their order, so that no clock has a say in it.
"""

import functools
import os
from dataclasses import replace
from datetime import timedelta
from itertools import cycle

import pytest
from drift_rules import ATTEMPTS, DriftRules, moment_of, record
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from graft_api.dataplane import version_name
from graft_api.drift import Moment
from graft_api.ledger import DriftRecord, Switch, WatchRecord
from graft_api.schema import seconds_of
from graft_operator.engine.clock import parse_rfc3339, rfc3339
from graft_operator.promotion import arms, machine, testing

EXAMPLES = int(os.environ.get("GRAFT_MODEL_EXAMPLES", "0"))
LETTERS = st.sampled_from("abcd")
PEOPLE = ["alice", "bob", "carol", "dave"]
ROBOT = "system:serviceaccount:ci:robot"
WHO = st.sampled_from([*PEOPLE, *PEOPLE, "lena", "mallory", ROBOT])
RAMP = [{"share": "0.2", "duration": "30m"}]
DRIFT = {"principles": "principles", "embeddings": {"url": "http://embeddings:8000/v1", "model": "small"}, "attempts": 3}
POLICIES = [
    {},
    {"approval": {"required": 1}},
    {"approval": {"required": 0}},
    {"approval": {"veto": False, "users": PEOPLE}},
    {"approval": {"required": None, "users": PEOPLE, "quorum": "Bft"}},
    {"approval": {"groups": ["leads"], "users": ["alice"]}, "ramp": RAMP},
    {"approval": {"required": 1}, "ramp": RAMP, "onNewer": "Supersede", "watch": {"inFlight": "Abort"}},
    {"approval": {"required": 1}, "drift": DRIFT},
    {"approval": {"required": 0}, "drift": DRIFT, "onNewer": "Supersede"},
    {"approval": {"veto": False, "users": PEOPLE}, "ramp": RAMP, "drift": DRIFT},
]
DRIFTS = {
    "far": (0.5, 0.9, None),
    "far from what it was": (0.31, 0.9, "Candidate"),
    "others are far": (0.5, 0.9, "Incumbent"),
    "undecided": (0.1, 0.9, None),
    "not near": (0.0, 0.31, None),
    "its Job is lost": None,
    "unmeasured": None,
}
"""What is found of its answers once it serves, but for what is not near: from where to where the interval goes, of which contrast."""
BEGUN = ["Testing", "AwaitingApproval", "Checking", "Ramping", "Watching", "Watching", "Unconfirmed", "Confirmed"]
SERVING = {"Ramping", "Watching", "Unconfirmed"}
CHANGES = [
    *[("pin", pin) for pin in (None, None, {"base": True}, {"adapter": "adapter-a"}, {"adapter": "adapter-b"}, {"adapter": "adapter-x"})],
    *[("missing", missing) for missing in (False, True)],
    *[("policy", policy) for policy in (None, *POLICIES)],
]
FATES = ["good", "worse", "tripped", "rejected", "unseen", "late", "vetoed", "restless", "meddled", "skewed", "bereft", *DRIFTS]
"""What becomes of what serves, where nothing else happens."""
UNSEEN = {"unseen", "late"}
"""Nobody looks until the watch has ended; then what is late is seen, and confirms nothing."""
UNASKED = {*UNSEEN, "bereft"}
TAKEN_OUT, LEFT_ALONE = {"worse", "tripped", "rejected", "skewed"}, {"late", "far", "far from what it was"}
"""What is not confirmed by people as soon as its watch has ended: never, or not before it was left alone for a while."""
AGAIN = {"Checking": "AwaitingApproval"}
"""Where it is after a restore, if not where it was: words are said again."""
MEANWHILE = st.sampled_from([None, None, "paused", "paused", "unguarded"])
TERMINAL = ["Passed", "Passed", "Passed", "Failed", "Inconclusive", "Error"]


def event(**strategies):
    """Something happens, and the operator looks, unless it is away."""

    def decorate(happen):
        @functools.wraps(happen)
        def happen_and_look(self, **given):
            happen(self, **given)
            if not self.away:
                self.operate()

        return rule(**strategies)(happen_and_look)

    return decorate


class Promotion(RuleBasedStateMachine):
    """One domain, and all that may happen to it."""

    world_of = None
    """Makes a world with these changes of its policy."""

    @initialize(policy=st.sampled_from(POLICIES), serves=st.booleans(), state=st.sampled_from(BEGUN), fate=st.sampled_from(FATES))
    def begin(self, policy, serves, state, fate):
        self.start(policy, serves, state, fate)

    def start(self, policy, serves, state, fate):
        self.world = self.world_of(**policy)
        self.spoken = {}  # uid of a word -> (number of the event, word)
        self.events = 0
        self.passed = {}  # evidence -> artifact and what it was held against, of tests that ask what the policy asks
        self.rejected_at = {}  # digest -> number of the event
        self.observed = {}  # watch -> seconds that were really observed, by whatever collector
        self.all_on_it = {}  # watch -> seconds that had been observed when the ramp was over
        self.ended_at = {}  # gate -> number of the event by which its watch had ended without an answer
        self.agreed = {}  # gate -> uids that were a quorum once
        self.began = {}
        self.harmed = set()  # watches in which conversations on the new version went wrong
        self.turns = {}  # uid -> how its turn ended
        self.drift = DriftRules()
        self.left = cycle([True, True, False])
        self.losses = cycle(["is another", "vanishes", "fails", "goes"])
        self.convicted = False
        self.backup = None
        self.old_boots = []
        self.away = False
        self.fate = "good"
        if serves:
            self.world.adapter("a").serves("a")
        self.world.adapter("b")
        self.operate()
        for _ in range(9):
            if self.world.state in (state, None):
                break
            self.fate = "unseen" if state == "Unconfirmed" else "good"
            self.go_well()
            self.operate()
        self.fate = fate

    # what happens

    @event(letter=LETTERS, promote=st.sampled_from([True, True, False]), loaded=st.booleans())
    def an_adapter_comes(self, letter, promote, loaded):
        known = self.world.candidates.get(f"adapter-{letter}")
        if known is None:
            self.world.adapter(letter, promote=promote, loaded=loaded)

    @event(letter=LETTERS, loaded=st.sampled_from([True, True, False]))
    def an_adapter_is_loaded_or_not(self, letter, loaded):
        if f"adapter-{letter}" in self.world.candidates:
            self.world.change(letter, loaded=loaded)

    @event(letter=LETTERS)
    def an_adapter_is_deleted(self, letter):
        known = self.world.candidates.get(f"adapter-{letter}")
        if known is not None and known.deleting:
            self.world.remove(letter)
        elif known is not None:
            self.world.change(letter, deleting=True)

    @precondition(lambda self: self.world.state == "Testing")
    @event(phase=st.sampled_from([*TERMINAL, "Running"]))
    def the_test_goes_on(self, phase):
        known = self.world.tests.get(self.world.gate.test)
        if known is not None and known.status.phase in TERMINAL:
            return  # a verdict is read once
        self.world.test(phase)
        known = self.world.tests.get(self.world.gate.test)
        genuine = known is not None and known.spec == self.genuine()
        if phase == "Passed" and genuine:
            held = self.world.entry.active
            self.passed[self.world.evidence()] = self.world.gate.version.digest, held.digest if held else None

    @precondition(lambda self: self.world.gate is not None)
    @event(how=st.sampled_from(["deleted", "going", "forged", "foreign", "free"]))
    def somebody_meddles_with_the_test(self, how):
        name = self.world.gate.test
        known = self.world.tests.get(name)
        if how == "deleted":
            self.world.tests.pop(name, None)
        elif how in {"foreign", "free"}:
            self.world.taken = frozenset({name}) if how == "foreign" and known is None else frozenset()
        elif known is not None:
            forged = known.spec.model_copy(update={"share": "0.01"})
            self.world.tests[name] = replace(known, deleting=True) if how == "going" else replace(known, spec=forged)

    @event(who=WHO, approves=st.sampled_from([True, True, True, False]), letter=LETTERS, other=st.sampled_from([False, False, True]))
    def somebody_speaks(self, who, approves, letter, other):
        self.speak(who, approves, letter, "sha256:" + "0" * 64 if other else ...)

    @precondition(lambda self: self.world.state == "AwaitingApproval")
    @event(count=st.integers(1, 4))
    def people_approve_the_candidate(self, count):
        for who in PEOPLE[:count]:
            self.speak(who, True, self.world.gate.version.adapter[-1])

    @precondition(lambda self: self.world.entry.rejected)
    @event(count=st.integers(1, 4), later=st.booleans())
    def people_want_back_what_was_rejected(self, count, later):
        digest = self.world.entry.rejected[-1].digest
        self.world.later(minutes=41 if later else 0)
        found = [told.evidence_digest for told in self.world.entry.ended if told.digest == digest and told.evidence_digest]
        for who in PEOPLE[:count]:
            self.speak(who, True, digest[7], found[-1] if found else "sha256:" + "0" * 64)

    @event(who=WHO)
    def somebody_withdraws(self, who):
        self.world.withdraw(who)

    @precondition(lambda self: self.world.state in SERVING)
    @event(
        minutes=st.sampled_from([1, 29, 31, 119, 121]),
        clusters=st.sampled_from([0, 5, 30, 200]),
        bad=st.sampled_from([False] * 5 + [True]),
    )
    def the_collector_looks(self, minutes, clusters, bad):
        self.observed[self.world.task] = self.observed.get(self.world.task, 0) + 60 * minutes
        if bad and clusters:
            self.harmed.add(self.world.task)
        self.world.observe(60 * minutes, clusters, clusters if bad else 0)

    @precondition(lambda self: self.world.moment is not None)
    @event(
        high=st.sampled_from([0.1, 0.3, 0.31, 0.9]),
        low=st.sampled_from([0.0, 0.2, 0.3, 0.31]),
        of=st.sampled_from([None, None, "Versions", "Candidate", "Incumbent", "Noise"]),
    )
    def drift_is_measured(self, high, low, of):
        self.measure(high, min(low, high), of)

    @precondition(lambda self: self.world.moment is not None)
    @event(problem=st.booleans())
    def drift_cannot_be_measured(self, problem):
        self.world.report(problem="503 of the embeddings" if problem else None)

    @precondition(lambda self: self.world.moment is not None)
    @event(
        what=st.sampled_from([{"gate": 99}, {"adapterUid": "uid-z"}, {"attempt": 99}, {"domain": "other"}]),
        high=st.sampled_from([0.1, 0.9]),
    )
    def somebody_speaks_of_another_drift(self, what, high):
        self.world.report(high, low=high, **what)

    @precondition(lambda self: self.world.moment is not None)
    @event(how=st.sampled_from(["vanishes", "fails", "goes", "is another"]))
    def the_job_is_lost(self, how):
        if how == "vanishes":
            self.world.jobs.clear()
        elif how == "is another":
            self.world.job(uid=f"job-uid-{self.world.unique()}", reports=())
        else:
            self.world.job(**({"deleting": True} if how == "goes" else {"over": "its Job has failed: DeadlineExceeded"}))

    @event(late=st.booleans())
    def the_collector_is_another(self, late):
        """A late word of the one before is what may come while two take turns."""
        if late and self.old_boots:
            self.world.boot, self.world.counts = self.old_boots[-1]
            self.operate()
        self.old_boots.append((self.world.boot, dict(self.world.counts)))
        self.world.restart_collector()

    @precondition(lambda self: self.world.state in SERVING)
    @event(held_back=st.sampled_from([None, 0.0, 0.5]), of_another=st.booleans())
    def a_gateway_trips(self, held_back, of_another):
        self.world.trip("d" if of_another else None, held_back)

    @event()
    def gateways_take_the_new_routes(self):
        self.world.trips.clear()

    @event(change=st.sampled_from(CHANGES))
    def somebody_changes_the_spec(self, change):
        world, (what, value) = self.world, change
        if what == "missing":
            world.words_count = not value
        elif what == "policy" and value is not None:
            world.policy(**value)
        else:
            world.ask(**{what: value})

    @event(paused=st.booleans())
    def it_is_paused_or_goes_on(self, paused):
        self.world.ask(paused=paused or None)

    @event(minutes=st.sampled_from([1, 10, 60, 300, 800, 3000]))
    def time_passes(self, minutes):
        self.world.later(minutes=minutes)

    @event(minutes=st.integers(-20, 20))
    def the_clock_jumps(self, minutes):
        """The operator's: the API server's goes on as it was."""
        jump = timedelta(minutes=minutes) - self.world.skew
        self.world.now += jump
        self.world.skew += jump

    @event(again=st.booleans())
    def the_ledger_is_saved_or_restored(self, again):
        """What was rejected since is forgotten with it: nobody can know it."""
        if again and self.backup is not None:
            self.world.entry, drift, turns = self.backup
            watched = self.world.task if arms.serving(self.world.entry) else None
            self.world.counts = {task: count for task, count in self.world.counts.items() if task == watched}
            self.drift, self.turns = drift.copy(), dict(turns)
            kept = {known.digest for known in self.world.entry.rejected if known.lifted_at is None}
            self.rejected_at = {digest: self.rejected_at.get(digest, 0) for digest in kept}
            self.began = {}
        elif not again:
            self.backup = self.world.entry, self.drift.copy(), dict(self.turns)

    @precondition(lambda self: not self.away)
    @rule()
    def the_adapters_are_restored_from_a_backup(self):
        """They have other uids, what went with the former ones is gone, and so are words: these are spoken by their authors alone."""
        world = self.world
        self.settle()
        before, without = world.gate, world.decide().gate
        for name, known in world.candidates.items():
            if not known.deleting:
                made = replace(known, uid=f"{known.uid[:5]}-{world.unique()}", created_at=world.created())
                world.candidates[name] = made
                self.turns |= {made.uid: self.turns[known.uid]} if known.uid in self.turns else {}
        world.tests, world.words, world.jobs = {}, {}, {}
        self.operate()
        if before is not None and without is not None and without.test == before.test:
            assert world.gate is not None and world.gate.test == before.test, "what is under way goes on"  # noqa: PT018
            assert world.gate.state in {before.state, without.state, AGAIN.get(before.state)}, "and from where it was"

    @rule()
    def the_operator_dies_before_its_write(self):
        entry = self.world.entry
        self.settle()
        self.world.decide()
        self.world.entry = entry

    @rule(away=st.booleans())
    def the_operator_goes_or_comes_back(self, away):
        self.away = away

    @rule(times=st.integers(1, 6), fate=st.sampled_from(FATES))
    def things_happen(self, times, fate):
        self.things_take_their_course(times, fate)

    def things_take_their_course(self, times, fate):
        self.fate = fate
        for _ in range(times):
            self.operate()
            self.go_well()

    # what the operator does

    def operate(self):
        before = self.world.entry
        self.settle()
        settled = self.world.entry
        self.convicted = True
        after = self.world.step()
        self.events += 1
        self.judge(before, settled, after)
        self.convicted = False
        self.world.tidy()
        if self.world.moment is not None and self.world.known.job is None:
            self.world.job()

    def measure(self, high, low=0.0, of=None):
        """The Job says what it has found."""
        self.world.report(measured=self.world.drifted(high, low, of))

    def settle(self):
        """Follow pins and deletions, as the ledger does before any promotion."""
        world, entry = self.world, self.world.entry
        going = {candidate.version for candidate in self.candidates() if candidate.deleting}
        if entry.previous in going:
            world.entry = entry = self.without_previous()
        if entry.active in going:
            return self.switch(None, "Deleted")
        pin = world.wanted.pin
        if pin is None:
            return None
        if pin.base:
            return self.switch(None, "Pinned")
        pinned = world.candidates.get(pin.adapter)
        if pinned is None or pinned.deleting or not pinned.loaded or machine.rejected(entry, pinned.version.digest):
            return None
        return self.switch(pinned.version, "Pinned")

    def without_previous(self):
        """Return the domain after what served before is gone: a watch begins anew, and drift has nothing to be held against."""
        entry, gate = self.world.entry, self.world.gate
        if gate is None or gate.watch is None:
            return entry.model_copy(update={"previous": None})
        number = max([ended.number for ended in entry.ended] + [gate.number]) + 1
        changes = {"number": number, "watch": WatchRecord(began=rfc3339(self.world.now))}
        known = record(gate, Moment.AFTER)
        if gate.policy.drift is not None and known.measured is None:
            over = {"failed": max(known.failed, ATTEMPTS), "problem": "it is gone", "begun": None, "job": None}
            drift = (gate.drift or DriftRecord()).model_copy(update={"after": known.model_copy(update=over)})
            changes["drift"] = drift
        return entry.model_copy(update={"previous": None, "gate": gate.model_copy(update=changes)})

    def switch(self, version, reason):
        """Follow a pin or a deletion. A pin is for all conversations: of what is watched none is held back any more."""
        entry = self.world.entry
        watched = version is not None and arms.serving(entry) is not None
        if entry.active == version and not watched:
            return
        ordinal = entry.history[-1].ordinal + 1 if entry.history else 1
        made = Switch(ordinal=ordinal, at=rfc3339(self.world.now), reason=reason)
        history = [*entry.history, made][-32:]
        before = entry.active if entry.active != version else None
        self.world.entry = entry.model_copy(update={"active": version, "previous": before, "history": history})

    def candidates(self):
        return list(self.world.candidates.values())

    def genuine(self):
        return testing.spec_of(self.world.gate)

    def speak(self, who, approves, letter, evidence=...):
        self.events += 1
        groups = ["leads"] if who in {"lena", ROBOT} else []
        before = set(self.world.words)
        self.world.word(who, approves, letter, evidence, groups)
        (name,) = set(self.world.words) - before
        word = self.world.words[name]
        self.spoken[word.uid] = (self.events, word)

    # what must hold

    def judge(self, before, settled, after):
        self.drift.judge(self.world, settled, after)
        self.every_change_is_told(settled, after)
        self.turns_are_taken_once(settled, after)
        self.rollbacks_have_a_cause(settled, after)
        self.activations(settled, after)
        self.rejections(before, after)
        self.watches(settled, after)
        for known in (after.active, after.previous):
            assert known is None or known.digest not in self.rejected_at, "what is rejected serves no more, and is not kept for it"

    def every_change_is_told(self, before, after):
        if after.active != before.active:
            assert after.history[-1].ordinal > (before.history[-1].ordinal if before.history else 0)
        gone = before.gate is not None and (after.gate is None or after.gate.test != before.gate.test)
        if gone:
            told = [ended for ended in after.ended if ended not in before.ended and ended.adapter_uid == before.gate.adapter_uid]
            assert told, "every candidate's end is told"
            assert all(ended.message for ended in told)
        numbers = [ended.number for ended in after.ended] + ([after.gate.number] if after.gate else [])
        assert len(set(numbers)) == len(numbers), "a number is given once"

    def turns_are_taken_once(self, before, after):
        """Of an adapter whose digest was rejected, and is not any more, the turn comes again."""
        for told in after.ended:
            if told not in before.ended and told.reason != "PolicyChanged" and (told.served or told.reason != "Overridden"):
                self.turns[told.adapter_uid] = told.reason
        switch = after.history[-1] if after.history and after.history != before.history else None
        if switch is not None and switch.reason == "Promoted" and before.active is not None:
            for candidate in self.candidates():
                if candidate.version == before.active:
                    self.turns.setdefault(candidate.uid, "Replaced")
        gate = after.gate
        if gate is not None and (before.gate is None or before.gate.adapter_uid != gate.adapter_uid):
            lifted = any(known.digest == gate.version.digest and known.lifted_at is not None for known in after.rejected)
            again = lifted and self.turns.get(gate.adapter_uid) in {"Rejected", "RolledBack", "Replaced", "Confirmed"}
            assert gate.adapter_uid not in self.turns or again, "each adapter has one turn"

    def rollbacks_have_a_cause(self, before, after):
        for told in after.ended:
            if told in before.ended or told.reason != "RolledBack":
                continue
            gate, world = before.gate, self.world
            policy = gate.policy if gate is not None and gate.version.digest == told.digest else world.wanted.promotion
            spoken = policy is not None and any(
                not word.approves and word.digest == told.digest and self.may(policy.approval, word) for word in world.words.values()
            )
            known = machine.rejected(before, told.digest) is not None
            tripped = any(version_name("dsl", told.digest) == trip.version for trip in world.trips)
            held = before.previous.digest if before.previous else None
            harmed = gate is not None and (gate.number, told.digest, held) in self.harmed
            self.leads_back(before, after, told)
            assert spoken or known or tripped or harmed or told.test in self.drift.far, "what does no harm is not taken out"

    def leads_back(self, before, after, told):
        """What served before serves again, unless it is rejected itself."""
        gate, new = before.gate, [switch for switch in after.history if switch not in before.history and switch.reason == "RolledBack"]
        if gate is None or gate.number != told.number or gate.watch is None or not new:
            return
        back, out = before.previous, {known.digest for known in after.rejected if known.lifted_at is None}
        assert new[0].after == (back.adapter if back is not None and back.digest not in out else None), "back to what served before"

    def activations(self, before, after):
        promoted = [switch for switch in after.history if switch not in before.history and switch.reason == "Promoted"]
        if not promoted:
            return
        world, adapter = self.world, promoted[-1].after
        ways = [after.gate.version] if after.gate is not None and after.gate.watch is not None else []
        told = [ended for ended in after.ended if ended not in before.ended and ended.adapter == adapter]
        digest, evidence = (
            (told[-1].digest, told[-1].evidence_digest) if told and not ways else (ways[0].digest, after.gate.evidence_digest)
        )
        policy = world.wanted.promotion.approval
        test = after.gate.test if ways else None
        replaced = promoted[-1].before  # one pass may promote two, where what they waited for is all there
        held = "sha256:" + replaced[-1] * 64 if replaced else None
        kept = after.previous.adapter if after.previous else None
        assert kept == replaced or not ways or machine.rejected(after, held), "what served before is held back, and can serve again"
        assert self.passed.get(evidence) == (digest, held), "it passed the test that counts, against what served until now"
        name = test or told[-1].test
        assert world.wanted.promotion.drift is None or name in self.drift.near, "its answers were shown to be near"
        assert not world.wanted.paused
        assert world.wanted.pin is None
        assert world.words_count
        agree = self.agreeing(policy, digest, evidence, 0)
        fresh = {uid for uid in agree if uid in self.agreed.get(test, set()) or not self.expired(policy, uid)}
        assert len(fresh) >= policy.needed(), "the quorum stands"
        if (policy.veto or policy.needed() == 0) and not any(known.digest == digest for known in after.rejected):
            assert not self.against(policy, digest), "nobody vetoes it"

    def rejections(self, before, after):
        old = {known.digest for known in before.rejected if known.lifted_at is None}
        new = {known.digest: known for known in after.rejected if known.lifted_at is None}
        for digest in old - set(new):
            policy = self.world.wanted.promotion.approval
            since = self.rejected_at.pop(digest)
            agree = self.agreeing(policy, digest, None, since)
            assert len({self.spoken[uid][1].username for uid in agree}) >= max(1, policy.needed()), "a newer quorum lifted it"
        for digest in set(new) - old:
            said = [number for number, word in self.spoken.values() if word.name == new[digest].approval]
            self.rejected_at[digest] = said[0] if said else self.events
        for told in after.ended:
            if told not in before.ended and told.reason == "RolledBack":
                assert machine.rejected(after, told.digest) or told.digest in {known.digest for known in after.rejected}

    def watches(self, before, after):
        gate = after.gate
        if gate is not None and gate.watch is not None:
            counted = gate.watch.count().observed_seconds
            assert counted <= self.observed.get(self.world.task, 0) + 1e-6, "nothing is observed twice"
            key = (gate.number, gate.adapter_uid)
            began = self.began.setdefault(key, gate.watch.began)
            assert gate.watch.began == began, "a deadline never moves"
            ramp = sum(seconds_of(step.duration) for step in gate.policy.ramp)
            if gate.state != "Unconfirmed":
                over = parse_rfc3339(began) + timedelta(seconds=ramp + gate.policy.watch.longest())
                assert self.world.now < over, "no deadline is lost"
            else:
                self.ended_at.setdefault(gate.test, self.events)
        if gate is not None and gate.state == "Watching":
            self.all_on_it.setdefault(self.world.task, self.observed.get(self.world.task, 0))
        if gate is not None and gate.approvals:
            self.agreed.setdefault(gate.test, set()).update(approval.uid for approval in gate.approvals)
        confirmed = [told for told in after.ended if told not in before.ended and told.reason == "Confirmed"]
        for told in confirmed:
            self.confirmation(before, told)
            assert after.previous is None or after.gate is not None, "once it is confirmed nothing is held back, or kept"

    def confirmation(self, before, told):
        gate = before.gate
        assert gate is not None, "what was not even tested when it was last looked is not confirmed"
        if gate.state == "Unconfirmed":
            agree = self.agreeing(gate.policy.approval, gate.version.digest, gate.evidence_digest, self.ended_at[gate.test])
            assert len(agree) >= max(1, gate.policy.approval.needed()), "a newer quorum confirmed it"
        else:
            held_back = before.previous if gate.state in SERVING else before.active
            watch = (gate.number, gate.version.digest, held_back.digest if held_back else None)
            seen = self.observed.get(watch, 0)
            since = self.all_on_it.get(watch, seen) if gate.policy.ramp else 0
            assert seen - since >= seconds_of(gate.policy.watch.window), "nothing is confirmed that was not observed, with all on it"
            assert gate.policy.drift is None or gate.test in self.drift.not_far, "nor what was not asked again"

    def may(self, policy, word):
        if word.username in policy.users:
            return True
        grouped = bool(set(word.groups) & set(policy.groups)) and policy.quorum == "Count"
        return grouped and not word.username.startswith("system:serviceaccount:")

    def newest(self, policy, digest):
        """Return the last word of each author that is still there, by the order in which they came."""
        here = {word.uid for word in self.world.words.values()}
        last = {}
        for uid, (number, word) in sorted(self.spoken.items(), key=lambda item: item[1][0]):
            if uid in here and word.digest == digest and self.may(policy, word):
                last[word.username] = (number, uid, word)
        return last.values()

    def agreeing(self, policy, digest, evidence, since):
        found = self.newest(policy, digest)
        return {uid for number, uid, word in found if word.approves and number > since and evidence in (None, word.evidence_digest)}

    def against(self, policy, digest):
        return {uid for _, uid, word in self.newest(policy, digest) if not word.approves}

    def expired(self, policy, uid):
        return parse_rfc3339(self.spoken[uid][1].created_at) + timedelta(seconds=seconds_of(policy.expires_after)) <= self.world.now

    @invariant()
    def one_serves_and_one_is_held_back(self):
        entry = self.world.entry
        assert entry.previous is None or entry.previous != entry.active
        shares = arms.arms("dsl", entry)
        assert sum(arm.weight for arm in shares) == 10_000
        assert len({arm.version for arm in shares}) == len(shares) <= 2
        if len(shares) == 2:
            assert self.world.state in SERVING
        wire = arms.trip_wire("dsl", entry)
        assert (wire is not None) is (len(shares) == 2) is (arms.watch_task("dsl", entry) is not None)

    @invariant()
    def whatever_is_watched_can_be_taken_out(self):
        world, entry = self.world, self.world.entry
        if world.state not in SERVING or arms.serving(entry) is None:
            return
        trips, version = list(world.trips), entry.gate.version
        assert world.trip(version.adapter[-1]).decide().active != version, "by a gateway"
        world.trips = trips
        if entry.gate.policy.approval.users:
            words = dict(world.words)
            taken_out = world.later(seconds=1).reject("alice", version.adapter[-1]).decide()
            assert taken_out.active != version, "by hand"
            world.words = words
            world.now -= timedelta(seconds=1)

    # the way out

    def teardown(self):
        """From wherever it was, a few things that happen lead to the end of the gate, and from there to another one."""
        if not hasattr(self, "world") or self.convicted:
            return  # what follows from what is wrong would hide it
        self.ends()
        self.fate = "good"
        if self.world.entry.rejected:
            self.people_want_back_what_was_rejected(count=4, later=True)
        self.ends()

    def ends(self):
        world = self.world
        world.ask(pin=None, paused=None).trips.clear()
        self.away = False
        world.words_count, world.taken = True, frozenset()
        for name in world.candidates:
            world.candidates[name] = replace(world.candidates[name], loaded=True)
        for _ in range(12 + 12 * len(world.candidates)):
            self.operate()
            if world.gate is None:
                return
            self.go_well()
        raise AssertionError(f"no way out of {world.state}")

    def go_well(self):
        world, gate = self.world, self.world.gate
        if gate is not None and gate.missing is not None:
            world.later(hours=1)  # its Adapter vanished unseen, and nobody restores it
        elif world.state == "Testing":
            known = world.tests.get(gate.test)
            if known is not None and (known.deleting or known.spec != self.genuine()):
                del world.tests[gate.test]
            self.the_test_goes_on(phase="Running" if self.fate == "meddled" else "Passed")
            if self.fate == "meddled" and world.state == "Testing":
                self.forge()
        elif world.state == "AwaitingApproval" and self.fate == "vetoed":
            for who in PEOPLE:
                self.speak(who, False, gate.version.adapter[-1])
        elif world.state == "AwaitingApproval" or (world.state == "Unconfirmed" and not self.is_left()):
            world.later(minutes=41)
            for who in [*gate.policy.approval.users, "lena"]:
                self.speak(who, True, gate.version.adapter[-1])
        elif world.state == "Checking":
            self.check()
        elif gate is not None:
            self.serve()

    def is_asked(self):
        """Whether how far it is after the ramp is still to be found out."""
        known = record(self.world.gate, Moment.AFTER)
        return moment_of(self.world.gate) is Moment.AFTER and known.measured is None and known.failed < ATTEMPTS

    def is_left(self):
        return self.fate in TAKEN_OUT or (self.fate in LEFT_ALONE and next(self.left))

    def check(self):
        """Let drift be measured, as its fate has it; between attempts time passes."""
        world = self.world
        if world.moment is None:
            world.later(minutes=5)
        elif self.fate == "unmeasured":
            world.report(problem="503 of the embeddings")
        elif any(job.deleting for job in world.jobs.values()):
            world.jobs.clear()
        elif self.fate == "its Job is lost" and world.state != "Checking":
            if world.known.job is None:
                return  # another one that is there before anybody has looked is as good
            self.the_job_is_lost(how=next(self.losses))
        elif self.fate in DRIFTS and (world.state != "Checking" or self.fate == "not near"):
            low, high, of = DRIFTS[self.fate]
            self.measure(high, low, of)
        else:
            self.measure(0.1)

    def forge(self):
        """Somebody's own test, of one conversation in a hundred, passes under the right name; then it goes, and the real one passes."""
        world, known = self.world, self.world.tests.get(self.world.gate.test)
        if known is None:
            return
        forged = known.spec.model_copy(update={"share": "0.01"})
        world.tests[known.name] = replace(known, spec=forged, status=world.test_status("Passed", "Passed"))
        self.operate()
        assert world.state != "AwaitingApproval", "a test that asks something else counts for nothing"
        world.tests.pop(known.name, None)
        if world.state == "Testing":
            self.the_test_goes_on(phase="Passed")
        if world.entry.active is not None and self.events % 2:
            self.an_adapter_is_deleted(letter=world.active())

    def serve(self):
        """Let what serves have its fate."""
        world = self.world
        if self.fate == "skewed":
            for who in PEOPLE:
                self.speak(who, True, world.gate.version.adapter[-1])
            self.the_clock_jumps(minutes=-20)
        if world.state not in SERVING:
            return  # they have confirmed it
        if self.is_asked() and (self.fate not in UNASKED or world.state == "Unconfirmed"):
            self.check()
            self.operate()
            if world.state not in SERVING:
                return
        if self.fate in {"tripped", "skewed"}:
            self.a_gateway_trips(held_back=None, of_another=False)
            world.trips.clear()
        elif self.fate == "rejected":
            world.later(minutes=1)
            self.somebody_speaks(who="alice", approves=False, letter=world.gate.version.adapter[-1], other=False)
        elif self.fate in UNSEEN and world.state != "Unconfirmed":
            world.later(hours=7)
        elif self.fate == "bereft" and world.entry.previous is not None:
            world.later(minutes=1)
            self.somebody_speaks(who="alice", approves=False, letter=world.entry.previous.adapter[-1], other=False)
        elif self.fate == "restless":
            self.the_collector_looks(minutes=29, clusters=5, bad=False)
            self.the_collector_is_another(late=self.events % 2 > 0)
        else:
            minutes, clusters = (121, 200) if self.fate == "late" else [(29, 200), (61, 30), (119, 0), (121, 30)][self.events % 4]
            self.the_collector_looks(minutes=minutes, clusters=clusters, bad=self.fate == "worse" and clusters > 0)


class Drifting(Promotion):
    """The same where drift decides, from where it does."""

    @initialize(
        policy=st.sampled_from([policy for policy in POLICIES if "drift" in policy]),
        serves=st.booleans(),
        state=st.sampled_from(["Checking", "Watching", "Watching", "Unconfirmed", "Unconfirmed"]),
        fate=st.sampled_from(["late", "restless", "rejected", "bereft", *DRIFTS, "its Job is lost", "unmeasured"]),
        times=st.integers(0, 3),
        meanwhile=MEANWHILE,
    )
    def begin(self, policy, serves, state, fate, times, meanwhile):
        self.start(policy, serves, state, fate)
        self.its_answers_are_what_they_are(times, "not near" if (state, times) == ("Checking", 1) else fate, meanwhile)

    @rule(times=st.integers(1, 4), fate=st.sampled_from(list(DRIFTS)), meanwhile=MEANWHILE)
    def it_is_asked(self, times, fate, meanwhile):
        self.its_answers_are_what_they_are(times, fate, meanwhile)

    def its_answers_are_what_they_are(self, times, fate, meanwhile):
        self.world.ask(paused=meanwhile == "paused" or None)
        self.world.words_count = meanwhile != "unguarded"
        self.things_take_their_course(times, fate)


@pytest.mark.parametrize(("machine", "examples"), [pytest.param(Promotion, 100, id="anything"), pytest.param(Drifting, 60, id="drift")])
def test_whatever_happens_what_must_hold_holds(make, machine, examples):
    settled = settings(
        max_examples=EXAMPLES or examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("Here", (machine,), {"world_of": staticmethod(make)}), settings=settled)
