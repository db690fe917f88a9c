"""In the child: decide an SMT-LIB2 script with z3, and whether it says anything."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import z3

from graft_evaluation.sandbox.zygote import OUT_OF_MEMORY, Work

Say = Callable[[dict[str, Any]], None]

PARSE_SECONDS = 10

KEPT = frozenset(
    {
        "declare-const", "declare-fun", "declare-sort", "declare-datatype", "declare-datatypes",
        "define-const", "define-fun", "define-fun-rec", "define-funs-rec", "define-sort", "assert",
    }
)  # fmt: skip
"""Commands that say what the problem is. z3's options are not among them: `:regular-output-channel` writes files."""
SKIPPED = frozenset(
    {
        "set-logic", "set-info", "set-option", "check-sat", "echo", "get-model", "get-value", "get-info", "get-option", "get-assertions",
        "get-assignment", "get-proof", "get-unsat-core", "get-unsat-assumptions",
    }
)  # fmt: skip
"""Commands that ask or arrange; z3 without a logic knows all of them."""

TOKEN = re.compile(r';[^\n]*|"(?:[^"]|"")*"|\|[^|]*\||[()]|[^\s()";|]+|\s+')
"""SMT-LIB 2.6, section 3.1: comment, string, quoted symbol, parenthesis, any other token, space."""


class NotSmtLibError(ValueError):
    """The text is not a list of commands."""


class UnsupportedError(ValueError):
    """A command that moves the assertion stack, or that nobody knows."""


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each command up to `exit`. Raises `NotSmtLibError`."""
    position = depth = start = 0
    name: str | None = None
    while position < len(text):
        found = TOKEN.match(text, position)
        if found is None:
            raise NotSmtLibError("a string or symbol without an end")
        lexeme, position = found[0], found.end()
        if lexeme.isspace() or lexeme.startswith(";"):
            continue
        if depth == 0 and lexeme != "(":
            raise NotSmtLibError("text outside of commands")
        if depth == 0:
            start, name = found.start(), None
        elif depth == 1 and name is None:
            name = lexeme
        depth += {"(": 1, ")": -1}.get(lexeme, 0)
        if depth == 0:
            if name == "exit":
                return
            yield name or "", text[start:position]
    if depth:
        raise NotSmtLibError("a parenthesis without an end")


def problem(text: str) -> str:
    """Return the commands that say what the problem is. Raises `NotSmtLibError`, `UnsupportedError`."""
    kept = []
    for name, command in commands(text):
        if name in KEPT:
            kept.append(command)
        elif name not in SKIPPED:
            raise UnsupportedError(name)
    return "\n".join(kept)


def parsed(text: str) -> list[z3.BoolRef]:
    """Return the assertions. Raises `NotSmtLibError`."""
    try:
        return list(z3.parse_smt2_string(text))
    except z3.Z3Exception as error:
        if "out of memory" in str(error):
            raise MemoryError from error
        raise NotSmtLibError("z3 does not take it") from error


def prepare(settings: dict[str, Any]) -> Work:
    prelude = problem(settings["prelude"])
    premises = len(parsed(prelude))
    z3.set_param("memory_max_size", settings["memory_mib"] * 7 // 8)  # it says so, where the process's own limit would end it

    def work(text: str, say: Say) -> None:
        _allow(PARSE_SECONDS)
        try:
            assertions = parsed(f"{prelude}\n{problem(text)}")
        except NotSmtLibError:
            return say({"parsed": "ParseError"})
        except UnsupportedError:
            return say({"parsed": "Unsupported"})
        if len(assertions) == premises:
            return say({"parsed": "NoAssertion"})
        say({"parsed": "Parsed"})
        try:
            _decide(assertions, assertions[premises:], settings, say)
        except z3.Z3Exception:  # so it says that memory is gone
            os._exit(OUT_OF_MEMORY)
        return None

    return work


def _decide(assertions: list[z3.BoolRef], own: list[z3.BoolRef], settings: dict[str, Any], say: Say) -> None:
    _allow(settings["solver_seconds"])
    start = time.process_time()
    result = _check(assertions)
    say({"result": result, "seconds": time.process_time() - start})
    _allow(settings["solver_seconds"])
    say({"tautology": _says_nothing(own, settings["expect"], result)})


def _says_nothing(own: list[z3.BoolRef], expect: str, result: str) -> bool:
    """
    Return whether the answer's own assertions hold whatever happens; to be refuted, whether rewriting alone refutes them.

    The first: their negation is unsatisfiable. The second is weaker on purpose, for every refutation refutes.
    """
    if result == "unsat":
        return expect != "Satisfiable" and z3.is_false(z3.simplify(z3.And(*own)))
    return result == "sat" and _check([z3.Not(z3.And(*own))]) == "unsat"


def _check(assertions: list[z3.BoolRef]) -> str:
    solver = z3.Solver()
    solver.add(*assertions)
    result = str(solver.check())
    if result == "unknown" and "memory" in solver.reason_unknown():
        os._exit(OUT_OF_MEMORY)
    return result


def _allow(seconds: int) -> None:
    """From now on, so much CPU time; beyond it SIGPROF ends the process, wherever in the solver it is. RLIMIT_CPU counts whole seconds."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
