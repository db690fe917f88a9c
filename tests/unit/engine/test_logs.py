import json
import logging
import sys

from graft_operator.engine.logs import JsonFormatter


def record(message="hello", exc_info=None, **extra):
    made = logging.getLogger("graft").makeRecord("graft", logging.INFO, "f.py", 1, message, (), exc_info, extra=extra)
    return json.loads(JsonFormatter().format(made))


def test_a_line_is_one_json_object_with_time_level_logger_and_message():
    line = JsonFormatter().format(logging.getLogger("graft").makeRecord("graft", logging.WARNING, "f", 1, "two\nlines", (), None))
    assert "\n" not in line
    assert {"level": "warning", "logger": "graft", "message": "two\nlines"}.items() <= json.loads(line).items()


def test_known_fields_are_kept_and_others_cannot_slip_in():
    line = record(object="team/job", controller="finetunejob", token="hunter2", body={"spec": {}})
    assert line["object"] == "team/job"
    assert line["controller"] == "finetunejob"
    assert "token" not in line
    assert "body" not in line


def test_an_error_comes_with_its_type_and_where_it_was_raised_but_no_values():
    secret = "hunter2"
    try:
        raise KeyError("status")
    except KeyError:
        line = record(exc_info=sys.exc_info())
    assert line["error"] == "KeyError"
    assert "test_logs.py" in line["trace"][0]
    assert secret not in json.dumps(line)


def test_a_long_message_is_cut():
    assert len(record("x" * 10_000)["message"]) == 2000
