"""What was noted is told: an Event, a line and metrics, once; again after a crash, under the same name."""

import logging
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from graft_api.ledger import Ledger
from graft_api.schema import parse
from graft_operator.engine.errors import AlreadyExists, Forbidden, Unavailable
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.queue import Key
from graft_operator.modelendpoint import audit
from graft_operator.modelendpoint.metrics import COUNTED, STATES, PromotionMetrics
from graft_runtime.logs import JsonFormatter

DIGEST, EVIDENCE = "sha256:" + "c" * 64, "sha256:" + "e" * 64
AT = "2026-11-21T12:00:00Z"
ENDPOINT = {"apiVersion": "graft.dev/v1alpha1", "kind": "ModelEndpoint", "metadata": {"namespace": "shop", "name": "prod", "uid": "u"}}
SWITCH = {"before": "Promoted", "after": "Switched", "adapter": "c", "digest": DIGEST, "who": ["anna", "bert"], "message": "a -> c: passed"}
BEGUN = {"before": "AwaitingApproval", "after": "Ramping", "adapter": "c", "digest": DIGEST, "evidence": EVIDENCE, "seconds": 60.0}
STEP = {"before": "Ramping", "after": "Ramping", "adapter": "c", "digest": DIGEST, "message": "step 2 of 2"}
HARM = {"before": "Ramping", "after": "RolledBack", "adapter": "c", "digest": DIGEST, "message": "errors", "seconds": 7200.0}


class Server:
    """The API server's part of Events."""

    def __init__(self):
        self.events = {}
        self.refuses = {}
        """Reasons of Events, with the error."""

    async def create(self, resource, event):
        if event["reason"] in self.refuses:
            raise self.refuses[event["reason"]]
        if event["metadata"]["name"] in self.events:
            raise AlreadyExists("there")
        self.events[event["metadata"]["name"]] = event

    def reasons(self):
        return [event["reason"] for event in self.events.values()]


class Teller:
    """An operator process."""

    def __init__(self, server):
        self.registry = CollectorRegistry()
        self.audit = audit.Audit(PromotionMetrics(self.registry))
        self.events = EventRecorder(server, clock=None, instance="pod")

    async def tell(self, ledger):
        return await self.audit.tell(ENDPOINT, ledger, self.events)

    def count(self, state):
        labels = {"namespace": "shop", "endpoint": "prod", "domain": "dsl", "state": state}
        return self.registry.get_sample_value("graft_promotion_transitions_total", labels)


def ledger(*steps, told=0):
    noted = [step | {"ordinal": number, "at": AT} for number, step in enumerate(steps, 1)]
    return parse(Ledger, {"endpoint": "prod", "domains": [{"name": "dsl", "salt": "s", "transitions": noted, "told": told}]})


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger=audit.__name__)
    return lambda: [record for record in caplog.records if record.name == audit.__name__]


async def test_all_is_told_in_its_order_and_marked(server, lines):
    teller = Teller(server)
    told = await teller.tell(ledger(SWITCH, BEGUN, STEP, HARM))
    assert (told.domains[0].told, audit.untold(told)) == (4, False)
    assert server.reasons() == ["Switched", "Promoted", "RolledBack"], "of a step there is only the line"
    assert [record.ordinal for record in lines()] == [1, 2, 3, 4]
    assert (teller.count("Ramping"), teller.count("RolledBack"), teller.count("Switched")) == (1, 1, None)
    labels = {"namespace": "shop", "endpoint": "prod", "domain": "dsl", "state": "Ramping"}
    assert teller.registry.get_sample_value("graft_promotion_state_seconds_sum", labels) == 7200


async def test_a_line_says_who_what_and_by_which_evidence(server, lines):
    await Teller(server).tell(ledger(BEGUN | {"who": ["anna", "bert"]}, HARM))
    (begun, harm) = (JsonFormatter(words=True).format(record) for record in lines())
    for part in ('"endpoint": "shop/prod"', '"domain": "dsl"', '"who": "anna, bert"', f'"digest": "{DIGEST}"', f'"evidence": "{EVIDENCE}"'):
        assert part in begun
    assert '"ordinal": 1' in begun
    assert '"before": "AwaitingApproval"' in begun
    assert ('"who": "graft"' in harm, '"state": "RolledBack"' in harm) == (True, True)


async def test_an_event_says_when_it_happened_and_of_what(server):
    await Teller(server).tell(ledger(BEGUN | {"who": ["anna"]}))
    (event,) = server.events.values()
    assert (event["eventTime"], event["regarding"]["uid"], event["type"]) == ("2026-11-21T12:00:00.000000Z", "u", "Normal")
    assert event["note"] == f"domain dsl: Adapter c ({DIGEST[:19]}) is Ramping, by anna"


async def test_after_a_crash_it_is_told_again_under_the_same_name(server, lines):
    await Teller(server).tell(ledger(BEGUN, HARM))
    events = dict(server.events)
    successor = Teller(server)
    told = await successor.tell(ledger(BEGUN, HARM))
    assert (server.events, audit.untold(told)) == (events, False)
    first, second, *again = [record.id for record in lines()]
    assert (again, first != second) == ([first, second], True)
    assert {f"prod.{first}", f"prod.{second}"} == set(events)


async def test_what_was_told_is_not_told_again(server, lines):
    before = ledger(BEGUN, HARM, told=2)
    assert await Teller(server).tell(before) == before
    assert (server.events, lines()) == ({}, [])


async def test_what_the_api_server_cannot_take_now_waits_and_its_line_does_not(server, lines):
    teller = Teller(server)
    server.refuses["RolledBack"] = Unavailable("etcd is away", code=503)
    told = await teller.tell(ledger(BEGUN, HARM))
    assert (told.domains[0].told, len(lines())) == (1, 2)
    assert await teller.tell(told) == told
    server.refuses.clear()
    told = await teller.tell(told)
    assert (told.domains[0].told, server.reasons()) == (2, ["Promoted", "RolledBack"])
    assert (len(lines()), teller.count("RolledBack")) == (2, 1), "one process says and counts it once"


async def test_of_a_server_that_does_not_answer_no_more_is_asked(server, lines):
    """Each Event would wait for its timeout, and the next decision about what serves for all of them."""
    known = ledger(BEGUN)
    both = known.model_copy(update={"domains": [*known.domains, known.domains[0].model_copy(update={"name": "sql"})]})
    tried = []

    async def hang(resource, event):
        tried.append(event["reason"])
        raise Unavailable("no answer in time")

    server.create = hang
    told = await Teller(server).tell(both)
    assert (tried, told == both, len(lines())) == (["Promoted"], True, 2)


async def test_what_it_will_never_take_is_not_tried_for_ever(server):
    server.refuses["Promoted"] = Forbidden("the namespace is being terminated", code=403)
    told = await Teller(server).tell(ledger(BEGUN, HARM))
    assert (told.domains[0].told, server.reasons()) == (2, ["RolledBack"])


def test_what_a_restored_ledger_counts_anew_is_something_else():
    (first,), (second,) = (ledger(BEGUN).domains[0].transitions, ledger(BEGUN).domains[0].transitions)
    later = second.model_copy(update={"at": datetime(2026, 11, 22, tzinfo=UTC).isoformat()})
    assert audit.identity("u", "dsl", first) == audit.identity("u", "dsl", second) != audit.identity("u", "dsl", later)
    assert len({audit.identity(uid, domain, first) for uid in "uv" for domain in ("dsl", "sql")}) == 4


def gate(state):
    version = {"adapter": "c", "digest": DIGEST, "uri": "s3://a/c", "sizeBytes": 1}
    known = {"number": 1, "version": version, "adapterUid": "u", "policy": POLICY, "state": state, "since": AT, "began": AT, "test": "t"}
    return {"endpoint": "prod", "domains": [{"name": "dsl", "salt": "s", "gate": known}, {"name": "sql", "salt": "s"}]}


METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
POLICY = {"shadow": {"duration": "24h", "metrics": [{"measure": "ServerError", "metric": METRIC}]}, "approval": {"users": ["anna"]}}


def test_prometheus_sees_where_each_candidate_is_and_counts_from_zero():
    registry, endpoint = CollectorRegistry(), Key("shop", "prod")
    metrics = PromotionMetrics(registry)

    def value(name, domain, state):
        return registry.get_sample_value(name, {"namespace": "shop", "endpoint": "prod", "domain": domain, "state": state})

    def states(domain):
        return {state for state in (*STATES, "None") if value("graft_promotion_state", domain, state) == 1}

    metrics.know(endpoint, parse(Ledger, gate("AwaitingApproval")))
    assert (states("dsl"), states("sql")) == ({"AwaitingApproval"}, {"None"})
    assert {value("graft_promotion_transitions_total", "dsl", state) for state in COUNTED} == {0}
    assert {value("graft_promotion_state_seconds_count", "sql", state) for state in STATES} == {0}
    metrics.know(endpoint, parse(Ledger, gate("Watching")))
    assert (states("dsl"), value("graft_promotion_state", "dsl", "AwaitingApproval")) == ({"Watching"}, 0)
    metrics.forget(endpoint)
    assert value("graft_promotion_state", "dsl", "Watching") is None
    assert value("graft_promotion_transitions_total", "dsl", "RolledBack") == 0, "a counter does not go back"
