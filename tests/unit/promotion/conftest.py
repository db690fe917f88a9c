"""A domain that remembers what was decided, as the ledger does, with people, tests, a collector and gateways around it."""

import hashlib
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from graft_api.dataplane import version_name
from graft_api.drift import Drifted, DriftReport, Moment
from graft_api.fleet import Trip
from graft_api.ledger import LedgerDomain, LedgerVersion, Switch
from graft_api.modelendpoint import Domain
from graft_api.schema import parse
from graft_api.shadowtest import ShadowTestStatus
from graft_api.watch import Moments, WatchCount, Watched, WatchedSums, WatchReading
from graft_operator.engine.clock import rfc3339
from graft_operator.promotion import machine, testing
from graft_operator.promotion.arms import watch_task, watched_metrics
from graft_operator.promotion.seen import Candidate, CountedWatch, DriftJob, Seen, Word
from graft_operator.shadowtest.turns import TestView

sys.path.insert(0, str(Path(__file__).parent))  # its modules beside it: pytest's importlib mode adds no folder

import drift_rules

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DOMAIN = "dsl"
METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
SHADOW = {"duration": "1h", "metrics": [{"metric": METRIC, "scorer": {"cel": {}}}]}
POLICY = {
    "shadow": SHADOW,
    "approval": {"users": ["alice", "bob"], "required": 2, "expiresAfter": "24h"},
    "watch": {"window": "2h", "maxWindow": "6h", "minClusters": 20},
}

DRIFT = {"principles": "principles", "embeddings": {"url": "http://embeddings:8000/v1", "model": "small"}, "attempts": 3}


def digest(letter):
    return "sha256:" + letter * 64


def version(letter, adapter=None):
    return LedgerVersion(adapter=adapter or f"adapter-{letter}", digest=digest(letter), uri=f"s3://adapters/{letter}", size_bytes=10)


def merged(base, changes):
    """Return a policy with some of its parts changed; None takes a field away."""
    made = dict(base)
    for name, value in changes.items():
        made[name] = merged(made.get(name, {}), value) if isinstance(value, dict) else value
        if value is None:
            del made[name]
    return made


def simple_reading(metrics, count):
    """Breached where the new version's mean is worse by half: the statistics are tested where they are."""
    sums = {found.name: found for found in count.metrics}
    return [_reading(metric, sums.get(metric.name, WatchedSums(name=metric.name))) for metric in metrics]


def _reading(metric, sums):
    means = [side.total / side.values if side.values else 0.0 for side in (sums.new, sums.held_back)]
    breached = means[0] - means[1] > 0.5
    counts = {"clusters_new": sums.new.clusters, "clusters_held_back": sums.held_back.clusters}
    sentence = f"{metric.name}: {means[0]:g} against {means[1]:g}, bound {-metric.margin:g}" if breached else ""
    return WatchReading(name=metric.name, limit=-metric.margin, breached=breached, sentence=sentence, **counts)


def side(clusters, errors=0):
    return Moments(
        clusters=clusters, values=clusters, total=float(errors), values_squared=clusters, product=float(errors), total_squared=float(errors)
    )


class World:
    """
    The API server's time is `now - skew`. What `step` returns was written; a pass that is lost is one whose result is thrown away.

    Every step holds the result against itself: the same again changes nothing.
    """

    def __init__(self, policy=None, **domain):
        self.now, self.skew = START, timedelta()
        self.wanted = parse(Domain, {"name": DOMAIN})
        self.entry = LedgerDomain(name=DOMAIN, salt="s")
        self.candidates, self.tests, self.words = {}, {}, {}
        self.taken, self.trips, self.words_count = frozenset(), [], True
        self.boot, self.counts = "boot-1", {}
        self.jobs, self.names_taken = {}, frozenset()
        self.made = 0
        self.ask(policy=POLICY if policy is None else policy, **domain)

    def ask(self, **changes):
        """Change the domain's spec; `policy` stands for `promotion`, None for none."""
        if "policy" in changes:
            changes["promotion"] = changes.pop("policy")
        body = merged(self.wanted.to_json(), {})
        body |= changes
        self.wanted = parse(Domain, {name: value for name, value in body.items() if value is not None})
        return self

    def policy(self, **changes):
        return self.ask(policy=merged(POLICY, changes))

    def seen(self):
        return Seen(
            endpoint="prod",
            wanted=self.wanted,
            candidates=list(self.candidates.values()),
            words=list(self.words.values()),
            tests=list(self.tests.values()),
            taken=self.taken,
            watched=self.watched(),
            trips=tuple(self.trips),
            drift_jobs=tuple(self.jobs.values()),
            drift_names_taken=self.names_taken,
            words_count=self.words_count,
        )

    reader = staticmethod(simple_reading)

    def decide(self):
        return machine.advance(self.seen(), self.entry, self.now, simple_reading)

    def step(self):
        self.entry = self.decide()
        assert self.decide() == self.entry, "the same again changes nothing"
        assert LedgerDomain.model_validate_json(self.entry.model_dump_json(by_alias=True)) == self.entry, "it can be read again"
        return self.entry

    @property
    def gate(self):
        return self.entry.gate

    @property
    def state(self):
        return self.entry.gate.state.value if self.entry.gate else None

    @property
    def last(self):
        """How the last candidate ended."""
        return self.entry.ended[-1].reason.value if self.entry.ended else None

    def active(self):
        return self.entry.active.adapter[-1] if self.entry.active else None

    def later(self, **time):
        self.now += timedelta(**time)
        return self

    def created(self):
        return rfc3339(self.now - self.skew)

    def unique(self):
        self.made += 1
        return self.made

    # adapters

    def adapter(self, letter, **changes):
        number = self.unique()
        made = Candidate(
            name=f"adapter-{letter}",
            uid=f"uid-{letter}-{number}",
            version=version(letter),
            created_at=self.created(),
            promote=True,
            deleting=False,
            loaded=True,
        )
        self.candidates[made.name] = replace(made, **changes)
        return self

    def change(self, letter, **changes):
        name = f"adapter-{letter}"
        self.candidates[name] = replace(self.candidates[name], **changes)
        return self

    def remove(self, letter):
        self.candidates.pop(f"adapter-{letter}", None)
        return self

    def recreated(self, letter, **changes):
        """Let somebody delete an adapter, as its finalizer lets the operator see, and make it anew."""
        self.change(letter, deleting=True).step()
        return self.remove(letter).adapter(letter, **changes)

    def lost(self, *letters):
        """Let adapters vanish unseen, and with them what goes with them, and what no backup brings back."""
        for letter in letters:
            self.remove(letter)
        self.tests, self.words, self.jobs, self.taken, self.trips = {}, {}, {}, frozenset(), []
        return self.restart_collector()

    def restored(self, *letters, **changes):
        """Let what was lost be there again, under other uids."""
        for letter in letters:
            self.adapter(letter, **changes)
        return self

    def serves(self, letter):
        """Let an adapter have been pinned once."""
        switch = Switch(ordinal=len(self.entry.history) + 1, at=rfc3339(self.now), reason="Pinned", after=f"adapter-{letter}")
        self.entry = self.entry.model_copy(
            update={"active": version(letter), "previous": self.entry.active, "history": [*self.entry.history, switch]}
        )
        return self

    # tests

    def test(self, phase="Running", outcome=None, **changes):
        """Make the test that is wanted, or let it go on; it is kept by its name."""
        wanted = machine.test_wanted(self.seen(), self.entry)
        if wanted is not None:
            uid = f"test-uid-{self.unique()}"
            self.tests[wanted.test] = TestView(wanted.test, uid, self.created(), testing.spec_of(wanted), ShadowTestStatus())
        known = self.tests.get(self.gate.test) if self.gate else None
        if known is not None:
            status = self.test_status(phase, outcome or phase)
            self.tests[known.name] = replace(known, **({"status": status} | changes))
        return self

    def test_status(self, phase, outcome, letter=None, incumbent=...):
        held = self.entry.active.digest if self.entry.active else None
        body = {"phase": phase}
        body["resolved"] = {
            "endpoint": "prod",
            "endpointUid": "e",
            "domain": DOMAIN,
            "incumbent": {"version": "held"} | ({"digest": held} if incumbent is ... and held else {}),
            "candidate": {"version": "new", "digest": digest(letter) if letter else self.gate.version.digest},
            "store": "s3://m/t",
            "seed": 1,
            "maxDuration": "2h",
            "endpointSpecDigest": digest("0"),
        }
        if phase in {"Passed", "Failed", "Inconclusive", "Error"}:
            evidence = self.evidence()
            body["verdict"] = {
                "outcome": outcome,
                "sentence": f"{outcome}: 1.2 % against a bound of 1 %",
                "readAt": rfc3339(self.now),
                "observedHours": 1.0,
                "commit": 1,
                "evidenceDigest": evidence,
            }
        return parse(ShadowTestStatus, body)

    def evidence(self):
        return "sha256:" + hashlib.sha256(self.gate.test.encode()).hexdigest()

    # people

    def word(self, who, approves, letter=None, evidence=..., groups=(), **changes):
        number = self.unique()
        letter = letter or self.entry.gate.version.adapter[-1]
        said = Word(
            name=f"word-{number}",
            uid=f"word-uid-{number}",
            adapter=f"adapter-{letter}",
            digest=digest(letter),
            evidence_digest=(self.gate.evidence_digest if self.gate else None) if evidence is ... else evidence,
            approves=approves,
            username=who,
            groups=frozenset(groups),
            created_at=self.created(),
        )
        self.words[said.name] = replace(said, **changes)
        return self

    def approve(self, who, letter=None, **more):
        return self.word(who, True, letter, **more)

    def reject(self, who, letter=None, **more):
        return self.word(who, False, letter, **more)

    def withdraw(self, who):
        self.words = {name: word for name, word in self.words.items() if word.username != who}
        return self

    # watch

    @property
    def task(self):
        """By what a collector tells one watch from another."""
        held_back = self.entry.previous.digest if self.entry.previous else None
        return self.gate.number, self.gate.version.digest, held_back

    def watched(self):
        told = self.counts.get(self.task) if self.gate else None
        if not told:
            return None
        task = watch_task(DOMAIN, self.entry)
        pair = {"adapter_uid": task.adapter_uid, "new": task.new, "held_back": task.held_back} if task else {}
        return CountedWatch(self.boot, Watched(domain=DOMAIN, gate=self.gate.number, count=told, **pair))

    def observe(self, seconds=0.0, clusters=0, errors=0):
        """Let the collector look for a while; the clock goes with it."""
        gate = self.gate
        known = self.counts.get(self.task, WatchCount())
        names = [metric.name for metric in watched_metrics(gate.policy.watch)]
        more = [WatchedSums(name=name, new=side(clusters, errors), held_back=side(clusters)) for name in names]
        self.counts[self.task] = known.plus(WatchCount(observed_seconds=float(seconds), metrics=more))
        return self.later(seconds=seconds)

    def restart_collector(self):
        self.boot, self.counts = f"boot-{self.unique()}", {}
        return self

    def trip(self, letter=None, held_back=0.0):
        name = version_name(DOMAIN, digest(letter or self.active()))
        self.trips.append(
            Trip(
                domain=DOMAIN,
                version=name,
                metric="errors",
                value=0.4,
                bound=0.1,
                held_back=held_back,
                requests=50,
                at=rfc3339(self.now),
            )
        )
        return self

    # drift

    @property
    def moment(self):
        """Of which an attempt is under way, as the ledger says: what the operator makes of it is what is tested."""
        moment = drift_rules.moment_of(self.gate)
        return moment if moment is not None and drift_rules.record(self.gate, moment).begun is not None else None

    @property
    def known(self):
        """What the ledger has of the moment that the state is about."""
        return drift_rules.record(self.gate, drift_rules.moment_of(self.gate))

    def job(self, **changes):
        """What the operator makes when an attempt has begun; there is one of a name."""
        name = drift_rules.job_name(self, self.gate, self.moment)
        if name not in self.jobs:
            self.jobs[name] = DriftJob(name, f"job-uid-{self.unique()}")
        self.jobs[name] = replace(self.jobs[name], **changes)
        return self

    def tidy(self):
        """Delete the Jobs that no attempt needs, as the operator does once the ledger is written."""
        needed = drift_rules.job_name(self, self.gate, self.moment) if self.moment else None
        self.jobs = {name: job for name, job in self.jobs.items() if name == needed}
        return self

    def report(self, high=None, problem=None, low=0.0, measured=None, **changes):
        """Let the pod of the attempt's Job say something: nothing yet, a problem, or readings from `low` to `high`."""
        said = {
            "boot": "pod-1",
            "sequence": 1,
            "domain": DOMAIN,
            "gate": self.gate.number,
            "adapterUid": self.gate.adapter_uid,
            "moment": self.moment,
            "attempt": self.known.failed + 1,
            "problem": problem,
        }
        report = parse(DriftReport, said | changes)
        if high is not None or measured is not None:
            report = report.model_copy(update={"measured": measured or self.drifted(high, low)})
        return self.job(reports=(report,))

    def drifted(self, high, low=0.0, of=None, **changes):
        """What a Job found: all contrasts from `low` to `high`, or only one of them, and the others near."""
        contrasts = ["Versions", "Noise"] if self.moment is Moment.BEFORE else ["Versions", "Candidate", "Incumbent", "Noise"]
        ends = {contrast: (low, high) if of in (None, contrast) else (0.0, 0.1) for contrast in contrasts}
        sizes = {name: {"prompts": 8, "mean": (low + high) / 2, "low": low, "high": high} for name, (low, high) in ends.items()}
        readings = [{"principle": "honest", "contrast": name} | size for name, size in sizes.items()]
        known = {"at": rfc3339(self.now), "principlesDigest": digest("5"), "document": digest("6"), "readings": readings}
        return parse(Drifted, known | changes)

    def measured(self, high=0.1, low=0.0, **changes):
        """Let the attempt that is under way come to its end."""
        self.job().step()
        self.report(high, low=low, **changes).step()
        return self.tidy()

    def failed(self, why="503 of the embeddings"):
        self.job().step()
        self.report(problem=why).step()
        return self.tidy()

    # whole ways

    def testing(self, letter="c"):
        self.adapter(letter).step()
        self.test()
        self.step()
        return self

    def awaiting(self, letter="c"):
        self.testing(letter).test("Passed").step()
        return self

    def activated(self, letter="c"):
        self.awaiting(letter)
        for who in self.gate.policy.approval.users[: self.gate.policy.approval.needed()]:
            self.approve(who)
        self.later(seconds=5).step()
        return self

    def checking(self, letter="c"):
        """Approved, and the first attempt is under way. Of a policy with drift."""
        self.activated(letter)
        assert self.state == "Checking"
        return self

    def watching(self, letter="c"):
        """Activated after a check that found nothing; the attempt after it is under way."""
        self.checking(letter).measured()
        assert self.state == "Watching"
        return self

    def unconfirmed(self, letter="c"):
        self.activated(letter).later(hours=7).step()
        return self


@pytest.fixture
def make():
    """Return `World`: `make(policy changes)`."""

    def made(**changes):
        return World(merged(POLICY, changes))

    return made


@pytest.fixture
def world():
    return World()
