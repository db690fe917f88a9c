"""Scorers whose work is done in a sandbox: grammar, SMT-LIB2, command."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graft_api.sandboxed_scorers import CommandScorer, GrammarScorer, SmtScorer
from graft_evaluation.sandbox.pool import Program, SandboxLostError, SandboxPool
from graft_evaluation.sandbox.zygote import OUT_OF_MEMORY, Ended, Limits
from graft_evaluation.scorers.values import Case, Cause, Score, ScorerBrokenError, ScorerInvalidError, graded

SMT_PARSE_SECONDS = 10
"""As `sandbox.smt` has it, which loads z3."""
RIGHT_RESULTS = {"Satisfiable": {"sat"}, "Unsatisfiable": {"unsat"}, "Decided": {"sat", "unsat"}}
RESULT_CAUSES = {"sat": Cause.SATISFIABLE, "unsat": Cause.UNSATISFIABLE, "unknown": Cause.UNKNOWN}


@dataclass(frozen=True)
class Sandboxed:
    """A judge that has a sandbox run the answer and reads how it ended."""

    pool: SandboxPool
    text: Callable[[Case], str]
    read: Callable[[Ended], Score]

    async def judge(self, case: Case) -> Score:
        try:
            ended = await self.pool.run(self.text(case))
        except SandboxLostError as error:
            raise ScorerBrokenError("SandboxLost", str(error)) from error
        return self.read(ended)

    async def aclose(self) -> None:
        await self.pool.aclose()


def grammar(scorer: GrammarScorer, processes: int) -> Sandboxed:
    settings = {"document": scorer.document, "start": scorer.start, "parser": scorer.parser}
    _check_grammar(settings)
    limits = Limits(scorer.cpu_seconds, wall_of(scorer.cpu_seconds), scorer.memory_mib, output_bytes=1024)

    def read(ended: Ended) -> Score:
        _unbroken(ended, "grammar")
        parses = bool(_said(ended)["parses"])
        return Score.of(parses, None if parses else Cause.PARSE_ERROR)

    return Sandboxed(SandboxPool(Program("grammar", settings, limits), processes), _answer_of, read)


def smt(scorer: SmtScorer, processes: int) -> Sandboxed:
    settings = {name: getattr(scorer, name) for name in ("prelude", "expect", "solver_seconds", "memory_mib")}
    _check_prelude(scorer.prelude)
    cpu = SMT_PARSE_SECONDS + 2 * scorer.solver_seconds + 1  # the problem, and whether it is a tautology
    limits = Limits(cpu, wall_of(cpu), scorer.memory_mib, output_bytes=1024)
    return Sandboxed(SandboxPool(Program("smt", settings, limits), processes), _answer_of, lambda ended: smt_score(scorer, ended))


def command(scorer: CommandScorer, processes: int) -> Sandboxed:
    limits = Limits(scorer.cpu_seconds, scorer.timeout_seconds, scorer.memory_mib, scorer.output_bytes)
    program = Program("command", {"argv": scorer.argv, "memory_mib": scorer.memory_mib}, limits)

    def text(case: Case) -> str:
        if scorer.stdin == "Answer":
            return case.answer.text
        return json.dumps({"question": case.question, "answer": case.answer.text, "references": case.references}, ensure_ascii=False)

    return Sandboxed(SandboxPool(program, processes), text, lambda ended: command_score(scorer, ended))


def smt_score(scorer: SmtScorer, ended: Ended) -> Score:
    """Pure: what the lines of a solver's process, and how it ended, say of an answer."""
    said = _said(ended)
    if said.get("parsed", "Parsed") != "Parsed":
        return Score.of(False, Cause(said["parsed"]))
    if "result" not in said:
        return Score.of(False, _blamed(ended))
    result, seconds = str(said["result"]), float(said["seconds"])
    # Whether it is a tautology may take longer than it is worth: then it is none, for a trivial one shows at once.
    if said.get("tautology") and not scorer.allow_tautologies:
        return Score(0.0, right=False, cause=Cause.TAUTOLOGY.value, solver_seconds=seconds)
    right = result in RIGHT_RESULTS[scorer.expect]
    return Score(float(right), right, RESULT_CAUSES[result].value, solver_seconds=seconds)


def command_score(scorer: CommandScorer, ended: Ended) -> Score:
    """Pure: what a command's end says of an answer. Raises `ScorerBrokenError`."""
    if ended.expired or ended.overflowed or _out_of_cpu(ended):
        if scorer.on_limit == "Wrong":
            return Score.of(False, Cause.OUTPUT if ended.overflowed else Cause.TIMEOUT)
        limit = (
            f"outputBytes {scorer.output_bytes}"
            if ended.overflowed
            else f"{scorer.cpu_seconds} s of CPU, {scorer.timeout_seconds} s in all"
        )
        raise ScorerBrokenError("Output" if ended.overflowed else "Timeout", f"command: went beyond its limit of {limit}")
    if ended.signal is not None:
        raise ScorerBrokenError("Crashed", f"command: ended by {signal.Signals(ended.signal).name}")
    if scorer.verdict == "ExitStatus" and ended.status in {0, 1}:
        return Score.of(ended.status == 0)
    if ended.status != 0:
        raise ScorerBrokenError("ExitStatus", f"command: exit status {ended.status}{' (not found?)' if ended.status == 127 else ''}")
    try:
        found = json.loads(ended.output)
    except (ValueError, RecursionError) as error:
        raise ScorerBrokenError("BadScore", "command: its output is no JSON") from error
    return graded(found, float(scorer.right_from))


def wall_of(cpu_seconds: float) -> float:
    """Return the wall time after which a machine, and not a text, is to blame for work of so much CPU time."""
    return 4 * cpu_seconds + 30


def _answer_of(case: Case) -> str:
    return case.answer.text


def _said(ended: Ended) -> dict[str, Any]:
    """Join what the child said, line for line; a signal may have cut the last."""
    found: dict[str, Any] = {}
    for line in ended.output.splitlines(keepends=True):
        if line.endswith("\n"):
            found |= json.loads(line)
    return found


def _blamed(ended: Ended) -> Cause:
    """Return which limit of the solver the answer met, in reading it or in solving it. Raises `ScorerBrokenError` where it met none."""
    if _out_of_cpu(ended):
        return Cause.TIMEOUT
    if ended.status == OUT_OF_MEMORY:
        return Cause.OUT_OF_MEMORY
    _unbroken(ended, "smt")
    raise ScorerBrokenError("Silent", "smt: the solver's process ended without a result")


def _unbroken(ended: Ended, name: str) -> None:
    if ended.expired:
        raise ScorerBrokenError("Starved", f"{name}: the machine gave it too little CPU time")
    if _out_of_cpu(ended):
        raise ScorerBrokenError("Timeout", f"{name}: an answer took more than cpuSeconds; raise it, or use a grammar that is parsed faster")
    if ended.status == OUT_OF_MEMORY:
        raise ScorerBrokenError("OutOfMemory", f"{name}: an answer took more than memoryMib; raise it")
    if ended.status != 0:
        raise ScorerBrokenError("Crashed", f"{name}: its process ended with status {ended.status}, signal {ended.signal}")


def _out_of_cpu(ended: Ended) -> bool:
    return ended.signal in {signal.SIGXCPU, signal.SIGPROF}


def _check_grammar(settings: dict[str, str]) -> None:
    import re  # noqa: PLC0415

    import lark  # noqa: PLC0415 - only jobs that use it need it

    from graft_evaluation.sandbox.grammar import parser_of  # noqa: PLC0415

    try:
        parser_of(settings)
    except (lark.exceptions.LarkError, re.error, OSError, AssertionError) as error:
        said = " ".join(str(error).split())[:300]
        raise ScorerInvalidError(f"grammar.document: not a Lark grammar for {settings['parser']}: {said}") from error


def _check_prelude(prelude: str) -> None:
    if not prelude:
        return  # nothing to load z3 for
    from graft_evaluation.sandbox.smt import NotSmtLibError, UnsupportedError, parsed, problem  # noqa: PLC0415

    try:
        parsed(problem(prelude))
    except NotSmtLibError as error:
        raise ScorerInvalidError(f"smt.prelude: not SMT-LIB2: {error.__cause__ or error}") from error
    except UnsupportedError as error:
        raise ScorerInvalidError(f"smt.prelude: `{error}` has no place in it; use declarations, definitions and assertions") from error
