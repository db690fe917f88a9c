import copy

import pytest

from graft_operator.engine.status import difference


def merge(target, patch):
    """RFC 7386, written down a second time as an independent reference."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge(result.get(name), value)
    return result


CASES = [
    pytest.param({}, {}, {}, id="nothing to nothing"),
    pytest.param({"phase": "Running"}, {"phase": "Running"}, {}, id="no change is no patch"),
    pytest.param({"phase": "Running"}, {"phase": "Failed"}, {"phase": "Failed"}, id="a changed field"),
    pytest.param({"phase": "Running"}, {}, {"phase": None}, id="a field that is gone is deleted"),
    pytest.param({}, {"phase": None}, {}, id="none counts as absent"),
    pytest.param({"phase": "Running"}, {"phase": None}, {"phase": None}, id="a field that became none is deleted"),
    pytest.param(
        {"progress": {"step": 1, "loss": "2"}},
        {"progress": {"step": 2, "loss": "2"}},
        {"progress": {"step": 2}},
        id="only what changed inside",
    ),
    pytest.param({"progress": {"step": 1}}, {"progress": {}}, {"progress": {"step": None}}, id="a nested field that is gone"),
    pytest.param({}, {"progress": {}}, {"progress": {}}, id="an empty object is not nothing"),
    pytest.param({"a": 1}, {"a": {"b": 1}}, {"a": {"b": 1}}, id="a number becomes an object"),
    pytest.param({"a": {"b": 1}}, {"a": 1}, {"a": 1}, id="an object becomes a number"),
    pytest.param({"list": [1, 2]}, {"list": [1]}, {"list": [1]}, id="lists are replaced"),
    pytest.param({"list": [{"a": 1}]}, {"list": [{"a": 1, "b": None}]}, {}, id="none in a list entry counts as absent too"),
    pytest.param({"n": 0}, {"n": 0.0}, {}, id="a number that JSON writes differently is the same number"),
    pytest.param({"done": False}, {"done": True}, {"done": True}, id="false to true"),
]


@pytest.mark.parametrize(("before", "after", "patch"), CASES)
def test_difference(before, after, patch):
    untouched = copy.deepcopy((before, after))
    assert difference(before, after) == patch
    assert (before, after) == untouched


@pytest.mark.parametrize(("before", "after", "patch"), CASES)
def test_applying_the_difference_leads_to_the_wanted_status_and_then_nothing_is_left_to_do(before, after, patch):
    reached = merge(before, difference(before, after))
    assert difference(reached, after) == {}
