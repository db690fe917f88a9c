"""Scorers that run model-written text, or a program on it, in a process with bounded time and memory."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graft_api.schema import Decimal, Model, Rule

CpuSeconds = Annotated[int, Field(ge=1, le=3600)]
MemoryMib = Annotated[int, Field(ge=64, le=1048576)]


class GrammarScorer(Model):
    """The answer parses under a grammar in Lark's EBNF."""

    document: Annotated[str, Field(max_length=65536, min_length=1)]
    """The grammar. `%import` knows Lark's own grammars (`common`, `unicode`, `python`, `lark`)."""
    start: Annotated[str, Field(max_length=128, pattern=r"^[a-z_][a-z0-9_]*$")] = "start"
    """The rule that the whole answer must match."""
    parser: Literal["lalr", "earley"] = "lalr"
    """lalr: linear time, deterministic grammars. earley: every context-free grammar, up to cubic time."""
    cpu_seconds: CpuSeconds = 10
    """For one answer. Beyond: the answer counts as not scored, for the grammar may be at fault."""
    memory_mib: MemoryMib = 512


class SmtScorer(Model):
    """
    The answer is an SMT-LIB2 script; z3 decides the conjunction of its assertions together with those of `prelude`.

    Commands but declarations, definitions and assertions are skipped, up to `exit`; those that move the assertion stack make the
    answer wrong.
    """

    prelude: Annotated[str, Field(max_length=65536)] = ""
    """Declarations and assertions that every answer may use and need not repeat."""
    expect: Literal["Satisfiable", "Unsatisfiable", "Decided"] = "Satisfiable"
    """Satisfiable: a constraint that something fulfils. Unsatisfiable: a proof by refutation. Decided: either."""
    allow_tautologies: bool = False
    """
    False: an answer that says nothing is wrong.

    That is assertions that nothing violates; where they are to be unsatisfiable, those that rewriting alone, without a search, refutes.
    """
    solver_seconds: CpuSeconds = 180
    """CPU time of the solver for one answer. Beyond: wrong, by timeout."""
    memory_mib: MemoryMib = 1024


class CommandScorer(Model):
    """
    A program judges the answer: no shell, an empty folder, a clean environment.

    The answer comes on stdin; the trainer's image (`podTemplate.image`) or the collector's must hold the program.
    """

    argv: Annotated[list[Annotated[str, Field(max_length=4096)]], Field(min_length=1, max_length=64)]
    """Program, by absolute path or from /usr/local/bin:/usr/bin:/bin, and arguments."""
    stdin: Literal["Answer", "Json"] = "Answer"
    """Answer: its text. Json: `{"question", "answer", "references"}`."""
    verdict: Literal["ExitStatus", "Json"] = "ExitStatus"
    """
    ExitStatus: 0 is right, 1 is wrong, all else is a broken scorer.

    Json: `{"score": 0..1 or a boolean, "cause": "Word"}` on stdout and status 0.
    """
    right_from: Annotated[str, Decimal(gt=0, le=1)] = "0.5"
    """The score from which on an answer is right."""
    cpu_seconds: CpuSeconds = 10
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] = 60
    """Wall time, for a program that waits."""
    memory_mib: MemoryMib = 2048
    """Address space of each process. Go and Java reserve more than they use."""
    output_bytes: Annotated[int, Field(ge=1, le=1048576)] = 65536
    on_limit: Literal["Wrong", "Broken"] = "Broken"
    """
    What an answer is whose judging goes beyond time, memory or output.

    Wrong where the program runs what the model wrote, for then the answer is at fault.
    """

    rules: ClassVar = (
        Rule(
            cel="self.argv[0].size() > 0",
            message="the first entry names the program",
            check=lambda self: len(self.argv[0]) > 0,
            field=".argv",
        ),
        Rule(
            cel="self.cpuSeconds <= self.timeoutSeconds",
            message="cpuSeconds beyond timeoutSeconds could never be reached; raise timeoutSeconds",
            check=lambda self: self.cpu_seconds <= self.timeout_seconds,
            field=".timeoutSeconds",
        ),
    )
