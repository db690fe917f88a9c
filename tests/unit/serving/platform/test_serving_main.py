import json
import logging
import sys

import pytest

from graft_serving import main as serving
from graft_serving.environment import identity_from


@pytest.fixture
def called(monkeypatch):
    """Run `graft-serving <verb>` in this process: exit code and what it logged."""

    def call(verb, environ):
        monkeypatch.setattr(sys, "argv", ["graft-serving", verb])
        monkeypatch.setattr("os.environ", environ)
        return serving.main()

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield call
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_missing_setting_is_named_and_ends_with_2(called, capsys):
    assert called("gateway", {"GRAFT_NAMESPACE": "team", "GRAFT_STATIC_PODS": "x"}) == 2
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "critical"
    assert line["message"] == "GRAFT_ENDPOINT is not set: the pod's template must set it"


def test_a_wrong_log_level_is_a_wrong_setting(called, capsys):
    assert called("agent", {"GRAFT_LOG_LEVEL": "loud"}) == 2
    assert "GRAFT_LOG_LEVEL must be one of" in capsys.readouterr().err


def test_what_breaks_ends_with_1_and_its_words_are_not_logged(called, capsys, monkeypatch):
    def broken(_):
        raise RuntimeError("a client's words")

    monkeypatch.setitem(serving.VERBS, "gateway", broken)
    assert called("gateway", {}) == 1
    said = capsys.readouterr().err
    assert json.loads(said)["error"] == "RuntimeError"
    assert "a client's words" not in said


def test_an_unknown_verb_is_refused(called, capsys):
    with pytest.raises(SystemExit, match="2"):
        called("serve", {})
    assert "invalid choice" in capsys.readouterr().err


def test_the_identity_has_defaults_for_what_may_be_missing():
    identity = identity_from({"GRAFT_NAMESPACE": "team", "GRAFT_ENDPOINT": "prod", "GRAFT_POD_NAME": "a"})
    assert (identity.reports_url, str(identity.reports_directory), str(identity.routes_directory)) == (
        "",
        "/graft/reports",
        "/graft/routes",
    )
