"""In the child: hold calls against a request's tools."""

import json
from collections.abc import Callable
from typing import Any

import jsonschema_rs  # noqa: F401 - loaded once, before the forks

from graft_evaluation.sandbox.zygote import Work
from graft_evaluation.scorers.schemas import functions, judged
from graft_evaluation.scorers.values import ScorerInvalidError, ToolCall


def prepare(_: dict[str, Any]) -> Work:
    def work(text: str, say: Callable[[dict[str, Any]], None]) -> None:
        given = json.loads(text)
        try:
            offered = functions(json.loads(given["tools"]), "tools")
        except (ScorerInvalidError, TypeError, KeyError, AttributeError, RecursionError):
            say({})
        else:
            score = judged((ToolCall(name, arguments) for name, arguments in given["calls"]), offered)
            say({"cause": score.cause})

    return work
