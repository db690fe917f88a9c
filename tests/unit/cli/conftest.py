import sys
from pathlib import Path

import pytest

from graft_cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation" / "report"))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def graft(monkeypatch, capsys):
    """Run a command; returns exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["graft", *map(str, arguments)])
        code = main.main()
        return code, *capsys.readouterr()

    return run
