import json

import pytest

from graft_operator.engine.queue import Key
from graft_operator.modelendpoint.unfinished import Unfinished


def record(kind, epoch, revision, name="prod"):
    labels = {"graft.dev/record": kind, "graft.dev/modelendpoint": name}
    document = json.dumps({"epoch": epoch, "revision": revision})
    return {"metadata": {"namespace": "team", "name": f"{name}-{kind}", "labels": labels}, "data": {f"{kind}.json": document}}


@pytest.mark.parametrize(
    ("records", "unfinished"),
    [
        pytest.param([("ledger", 3, 7), ("routes", 3, 6)], True, id="the ledger is ahead"),
        pytest.param([("routes", 3, 6), ("ledger", 3, 7)], True, id="the ledger is ahead, seen last"),
        pytest.param([("ledger", 4, 6), ("routes", 3, 6)], True, id="of a later leader"),
        pytest.param([("ledger", 3, 7), ("routes", 3, 7)], False, id="they say the same"),
        pytest.param([("ledger", 3, 7), ("routes", 3, 6), ("routes", 3, 7)], False, id="completed"),
        pytest.param([("ledger", 3, 7)], False, id="no routes yet"),
        pytest.param([("routes", 3, 7)], False, id="no ledger yet"),
    ],
)
def test_only_a_ledger_ahead_of_its_routes_is_unfinished(records, unfinished):
    seen = Unfinished()
    for one in records:
        found = seen.endpoint_of(record(*one))
    assert found == (Key("team", "prod") if unfinished else None)


def test_endpoints_are_not_mixed_up():
    seen = Unfinished()
    seen.endpoint_of(record("ledger", 3, 7, "one"))
    assert seen.endpoint_of(record("routes", 3, 6, "two")) is None


@pytest.mark.parametrize("data", [None, {}, {"ledger.json": "{"}, {"ledger.json": "[]"}, {"ledger.json": '{"revision": "x"}'}])
def test_what_cannot_be_read_is_not_urgent(data):
    seen = Unfinished()
    seen.endpoint_of(record("routes", 0, 0))
    assert seen.endpoint_of(record("ledger", 1, 1) | {"data": data}) is None
