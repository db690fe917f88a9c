"""In the child: parse under a Lark grammar."""

from collections.abc import Callable
from typing import Any

import lark

from graft_evaluation.sandbox.zygote import Work

Say = Callable[[dict[str, Any]], None]


def parser_of(settings: dict[str, Any]) -> lark.Lark:
    """Return the parser. Raises lark's `GrammarError`, `LarkError` and what its regular expressions raise."""
    # No tree: the question is whether there is one. `import_paths` empty: only lark's own grammars can be imported.
    return lark.Lark(settings["document"], parser=settings["parser"], start=settings["start"], import_paths=[], maybe_placeholders=False)


def prepare(settings: dict[str, Any]) -> Work:
    parser = parser_of(settings)

    def work(text: str, say: Say) -> None:
        try:
            parser.parse(text)
        except lark.UnexpectedInput:  # anything else, a RecursionError for instance, is the parser's failure and not the text's
            say({"parses": False})
        else:
            say({"parses": True})

    return work
