from datetime import UTC, datetime

import pytest

from graft_operator.engine.conditions import Condition, find_condition, is_true, set_condition, shorten

THEN, NOW = datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC)
THEN_TEXT, NOW_TEXT = "2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z"


def ready(status="True", reason="Succeeded", message="", generation=1):
    return Condition("Ready", status, reason, message, generation)


@pytest.mark.parametrize(
    ("before", "after", "since"),
    [
        pytest.param(None, ready(), NOW_TEXT, id="a new condition dates from now"),
        pytest.param(ready(), ready(), THEN_TEXT, id="the same again keeps its date"),
        pytest.param(ready(), ready(reason="Other"), THEN_TEXT, id="another reason keeps the date"),
        pytest.param(ready(), ready(message="other"), THEN_TEXT, id="another message keeps the date"),
        pytest.param(ready(), ready(generation=2), THEN_TEXT, id="another generation keeps the date"),
        pytest.param(ready("False"), ready("True"), NOW_TEXT, id="a flip dates from now"),
        pytest.param(ready("Unknown"), ready("False"), NOW_TEXT, id="unknown to false is a flip"),
    ],
)
def test_last_transition_time(before, after, since):
    conditions = set_condition([], before, THEN) if before else []
    updated = set_condition(conditions, after, NOW)
    assert updated == [
        {
            "type": "Ready",
            "status": after.status,
            "reason": after.reason,
            "message": after.message,
            "observedGeneration": after.observed_generation,
            "lastTransitionTime": since,
        }
    ]


def test_the_list_keeps_its_order_and_what_was_given_is_not_changed():
    given = set_condition(set_condition([], ready(), THEN), Condition("Stalled", "False", "Fine", "", 1), THEN)
    before = [dict(entry) for entry in given]
    updated = set_condition(given, ready("False"), NOW)
    assert [entry["type"] for entry in updated] == ["Ready", "Stalled"]
    assert given == before


def test_a_long_message_is_cut_and_shows_it():
    message = set_condition([], ready(message="x" * 5000), NOW)[0]["message"]
    assert len(message) == 1024
    assert message.endswith("…")


@pytest.mark.parametrize(("text", "short"), [("", ""), ("abc", "abc"), ("abcd", "ab…")])
def test_shorten(text, short):
    assert shorten(text, 3) == short


def test_reading_conditions():
    conditions = set_condition([], ready("False"), NOW)
    assert find_condition(conditions, "Ready")["status"] == "False"
    assert find_condition(conditions, "Stalled") is None
    assert not is_true(conditions, "Ready")
    assert is_true(set_condition(conditions, ready(), NOW), "Ready")
