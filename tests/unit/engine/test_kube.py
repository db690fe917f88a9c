import json
from datetime import timedelta

import pytest

from graft_operator.engine.errors import (
    AlreadyExists,
    Cause,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeError,
    NotFound,
    Unauthorized,
    Unavailable,
)
from graft_operator.engine.kube import Selection, _refusal
from graft_operator.engine.resources import CONFIG_MAPS, FINE_TUNE_JOBS, PODS, TOKEN_REVIEWS


def answer(reason="", message="no", **details):
    return json.dumps({"kind": "Status", "reason": reason, "message": message, "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        pytest.param(400, answer("BadRequest"), Invalid, id="an unknown field"),
        pytest.param(401, answer("Unauthorized"), Unauthorized, id="a token that is refused"),
        pytest.param(403, answer("Forbidden"), Forbidden, id="no right"),
        pytest.param(404, answer("NotFound"), NotFound, id="not there"),
        pytest.param(409, answer("AlreadyExists"), AlreadyExists, id="a name that is taken"),
        pytest.param(409, answer("Conflict"), Conflict, id="changed since it was read"),
        pytest.param(410, answer("Expired"), Gone, id="a continue token that has expired"),
        pytest.param(422, answer("Invalid"), Invalid, id="an invalid object"),
        pytest.param(429, answer("TooManyRequests"), Unavailable, id="too many requests"),
        pytest.param(500, answer("InternalError"), Unavailable, id="an internal error"),
        pytest.param(504, answer("Timeout"), Unavailable, id="a timeout in the API server"),
        pytest.param(503, b"upstream connect error", Unavailable, id="a proxy that answers in plain text"),
        pytest.param(403, b"[]", Forbidden, id="an answer that is not an object"),
        pytest.param(418, answer("Teapot"), KubeError, id="anything else"),
    ],
)
def test_refusals(code, text, kind):
    error = _refusal("GET /x", code, text, None)
    assert type(error) is kind
    assert error.code == code


def test_an_invalid_object_names_its_fields():
    causes = [{"reason": "FieldValueInvalid", "field": "spec.lora.rank", "message": "should be >= 1"}]
    error = _refusal("POST /x", 422, answer("Invalid", "is invalid", causes=causes), None)
    assert error.causes == (Cause("spec.lora.rank", "should be >= 1", "FieldValueInvalid"),)


@pytest.mark.parametrize(
    ("header", "details", "delay"),
    [
        pytest.param("7", {}, timedelta(seconds=7), id="in the header"),
        pytest.param(None, {"retryAfterSeconds": 3}, timedelta(seconds=3), id="in the details"),
        pytest.param(None, {}, None, id="not at all"),
        pytest.param("Wed, 21 Oct 2026 07:28:00 GMT", {}, None, id="as a date, which is not used between these two"),
    ],
)
def test_when_the_server_asks_to_come_back(header, details, delay):
    assert _refusal("GET /x", 429, answer(**details), header).retry_after == delay


@pytest.mark.parametrize(
    ("resource", "arguments", "path"),
    [
        (PODS, (), "/api/v1/pods"),
        (PODS, ("team",), "/api/v1/namespaces/team/pods"),
        (PODS, ("team", "p", "status"), "/api/v1/namespaces/team/pods/p/status"),
        (FINE_TUNE_JOBS, ("team", "job"), "/apis/graft.dev/v1alpha1/namespaces/team/finetunejobs/job"),
        (TOKEN_REVIEWS, (), "/apis/authentication.k8s.io/v1/tokenreviews"),
    ],
)
def test_paths(resource, arguments, path):
    assert resource.path(*arguments) == path


def test_paths_that_would_address_something_else_are_refused():
    with pytest.raises(ValueError, match="needs a namespace"):
        CONFIG_MAPS.path(None, "name")
    with pytest.raises(ValueError, match="has no namespace"):
        TOKEN_REVIEWS.path("team")


def test_selection_sends_only_what_is_selected():
    assert Selection().query() == {}
    assert Selection(labels="a=b", fields="status.phase!=Done").query() == {"labelSelector": "a=b", "fieldSelector": "status.phase!=Done"}
