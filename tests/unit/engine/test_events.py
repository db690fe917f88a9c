import pytest

from graft_operator.engine.events import Happening, event_of

JOB = {
    "apiVersion": "graft.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"namespace": "team", "name": "dsl", "uid": "6b2c"},
}
STALLED = Happening("Warning", "DataTooSmall", "Stop", "4,200 examples, 5,000 are needed")


def name(job=JOB, happening=STALLED):
    return event_of(job, happening, "2026-11-20T12:00:00.000000Z", "pod-1")["metadata"]["name"]


def test_an_event_as_the_api_server_wants_it():
    event = event_of(JOB, STALLED, "2026-11-20T12:00:00.000000Z", "pod-1")
    assert event == {
        "metadata": {"name": name(), "namespace": "team"},
        "eventTime": "2026-11-20T12:00:00.000000Z",
        "type": "Warning",
        "reason": "DataTooSmall",
        "action": "Stop",
        "note": "4,200 examples, 5,000 are needed",
        "reportingController": "graft.dev/operator",
        "reportingInstance": "pod-1",
        "regarding": {"apiVersion": "graft.dev/v1alpha1", "kind": "FineTuneJob", "namespace": "team", "name": "dsl", "uid": "6b2c"},
    }


def test_the_same_words_about_the_same_object_have_the_same_name_whoever_says_them_when():
    again = event_of(JOB, STALLED, "2026-11-20T13:00:00.000000Z", "pod-2")
    assert again["metadata"]["name"] == name()


@pytest.mark.parametrize(
    ("job", "happening"),
    [
        pytest.param({**JOB, "metadata": {**JOB["metadata"], "uid": "other"}}, STALLED, id="another object of that name"),
        pytest.param(JOB, Happening("Warning", "Other", "Stop", STALLED.note), id="another reason"),
        pytest.param(JOB, Happening("Warning", STALLED.reason, "Stop", "4,300 examples"), id="another note"),
    ],
)
def test_something_else_has_another_name(job, happening):
    assert name(job, happening) != name()


def test_long_names_and_notes_stay_within_what_the_api_server_allows():
    job = {**JOB, "metadata": {**JOB["metadata"], "name": "n" * 253}}
    event = event_of(job, Happening("Normal", "Started", "Start", "x" * 5000), "2026-11-20T12:00:00.000000Z", "pod-1")
    assert len(event["metadata"]["name"]) <= 253
    assert len(event["note"]) == 1024
