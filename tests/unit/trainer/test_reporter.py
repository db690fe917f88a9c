from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft_api.finetunejob import Progress
from graft_trainer import reporter
from graft_trainer.errors import FencedError
from graft_trainer.layout import WorkFolder
from graft_trainer.reporter import Reporter


class Refusing:
    """An operator that accepts nothing any more."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self.meanwhile = meanwhile
        self.asked = 0

    def progress(self, _: Any) -> None:
        self.asked += 1
        self.meanwhile()
        raise FencedError("the operator answered 403 to progress")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(reporter.os, "_exit", codes.append)
    monkeypatch.setattr(reporter, "SIGTERM_WITHIN_SECONDS", 0.3)
    return codes


def test_a_refusal_ends_the_process(tmp_path: Path, ended: list[int]) -> None:
    Reporter(Refusing(lambda: None), 1, WorkFolder(tmp_path), tmp_path / "log")._post(Progress(stage="train"))  # type: ignore[arg-type]

    assert ended == [21]
    assert b"Fenced" in (tmp_path / "log").read_bytes()


def test_a_pod_that_was_asked_to_go_saves_its_checkpoint_whatever_the_operator_says(tmp_path: Path, ended: list[int]) -> None:
    operator = Refusing((tmp_path / "stop").touch)
    watching = Reporter(operator, 1, WorkFolder(tmp_path), tmp_path / "log")  # type: ignore[arg-type]

    watching._post(Progress(stage="train"))
    watching._post(Progress(stage="train"))

    assert (ended, operator.asked) == ([], 1)
    assert not (tmp_path / "log").exists()
