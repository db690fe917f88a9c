import pytest

from graft_runtime.environment import MissingSetting, log_level, required, whole_number


def test_a_setting_that_must_be_there_is_named():
    assert required({"X": "8"}, "X") == "8"
    for nothing in ({}, {"X": ""}):
        with pytest.raises(MissingSetting, match="X is not set"):
            required(nothing, "X")


def test_a_number_must_be_one():
    assert whole_number({}, "X", 7) == 7
    assert whole_number({"X": "8"}, "X", 7) == 8
    with pytest.raises(MissingSetting, match="X must be a whole number"):
        whole_number({"X": "-1"}, "X", 7)


def test_a_log_level_is_one_of_pythons():
    assert log_level({}) == "INFO"
    assert log_level({"GRAFT_LOG_LEVEL": "debug"}) == "DEBUG"
    with pytest.raises(MissingSetting, match="GRAFT_LOG_LEVEL must be one of"):
        log_level({"GRAFT_LOG_LEVEL": "loud"})
