import json
import logging
import sys

import pytest

from graft_runtime.logs import JsonFormatter, configure_logging


def record(message="hello", exc_info=None, words=True, **extra):
    made = logging.getLogger("graft").makeRecord("graft", logging.INFO, "f.py", 1, message, (), exc_info, extra=extra)
    return json.loads(JsonFormatter(words=words).format(made))


def raised(error):
    try:
        raise error
    except type(error):
        return sys.exc_info()


@pytest.fixture
def configure():
    """Configure the logging of this process, and put it back as it was."""
    root, library = logging.getLogger(), logging.getLogger("library")
    handlers, level = list(root.handlers), root.level
    yield configure_logging
    root.handlers[:] = handlers
    root.setLevel(level)
    library.setLevel(logging.NOTSET)


def test_a_line_is_one_json_object_with_time_level_logger_and_message():
    made = logging.getLogger("graft").makeRecord("graft", logging.WARNING, "f", 1, "two\nlines", (), None)
    line = JsonFormatter(words=True).format(made)
    assert "\n" not in line
    assert {"level": "warning", "logger": "graft", "message": "two\nlines"}.items() <= json.loads(line).items()


def test_known_fields_are_kept_and_others_cannot_slip_in():
    line = record(object="team/job", controller="finetunejob", revision=3, token="hunter2", body={"spec": {}}, prompt="secret")
    assert (line["object"], line["controller"], line["revision"]) == ("team/job", "finetunejob", 3)
    assert not {"token", "body", "prompt"} & line.keys()


def test_an_error_comes_with_its_type_and_where_it_was_raised_but_no_values():
    secret = "hunter2"
    line = record(exc_info=raised(KeyError("status")))
    assert (line["error"], line["detail"]) == ("KeyError", "KeyError: 'status'")
    assert "test_runtime_logs.py" in line["trace"][0]
    assert secret not in json.dumps(line)


def test_where_an_errors_words_may_quote_a_request_they_are_left_out():
    line = record(exc_info=raised(ValueError("a client's words")), words=False)
    assert line["error"] == "ValueError"
    assert "a client's words" not in json.dumps(line)


def test_a_long_message_is_cut():
    assert len(record("x" * 10_000)["message"]) == 2000


def test_a_library_that_talks_too_much_is_quiet_below_a_warning(configure, capsys):
    configure(words=True, quiet=["library"])
    logging.getLogger("library").info("an event")
    logging.getLogger("library").warning("trouble")
    logging.getLogger("graft").info("ours")
    assert [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()] == ["trouble", "ours"]
