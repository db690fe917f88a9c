"""Grammar, SMT-LIB2 and command: real parsers, a real solver, real programs."""

import asyncio
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from graft_api.schema import parse
from graft_api.scorers import CommandScorer, Scorer, SmtScorer
from graft_evaluation.sandbox.smt import NotSmtLibError, commands
from graft_evaluation.sandbox.zygote import OUT_OF_MEMORY, Ended
from graft_evaluation.scorers import TRANSIENT, Answer, Broken, Case, Outcome, Score, ScorerBrokenError, build, score_batch
from graft_evaluation.scorers.sandboxed import Sandboxed, command_score, smt_score

ARITHMETIC = """
start: sum
sum: product | sum ("+" | "-") product
product: atom | product ("*" | "/") atom
atom: NUMBER | "-" atom | "(" sum ")"
%import common.NUMBER
%import common.WS
%ignore WS
"""
AMBIGUOUS = 'start: s\ns: "a" | s s'
"""Every word of a's, in exponentially many ways: Earley's cubic case, and none for LALR."""


def outcomes(scorer: dict[str, Any], texts: Sequence[str], **case: Any) -> list[Outcome]:
    return score_batch(build(parse(Scorer, scorer), {}, processes=1), [Case(Answer(text), **case) for text in texts])


def causes(scorer: dict[str, Any], texts: Sequence[str], **case: Any) -> list[str]:
    return [found.cause for found in outcomes(scorer, texts, **case)]


def test_a_grammar_takes_what_pythons_own_parser_takes() -> None:
    import ast

    texts = [
        "1",
        "1 + 2 * 3",
        "(1 - 2) / -3",
        "--1",
        "((((1))))",
        "1 +",
        "",
        "(1",
        "1 2",
        "x",
        "1 + * 2",
        ")",
        "1\n+2",
        "(" * 80 + "1" + ")" * 80,
    ]

    def python_takes(text: str) -> bool:
        try:
            ast.parse(f"({text})", mode="eval")
        except SyntaxError:
            return False
        return text.strip() != "" and text != "x"

    found = outcomes({"grammar": {"document": ARITHMETIC}}, texts)

    assert [isinstance(one, Score) and one.right for one in found] == [python_takes(text) for text in texts]


def test_earley_takes_what_lalr_cannot() -> None:
    assert causes({"grammar": {"document": AMBIGUOUS, "parser": "earley"}}, ["aaa", "ab"]) == ["Right", "ParseError"]


def test_a_grammar_that_is_too_slow_is_broken_and_the_next_answer_is_judged() -> None:
    slow = {"document": "start: /(a+)+b/", "cpuSeconds": 1}

    late, right = outcomes({"grammar": slow}, ["a" * 40, "ab"])

    assert isinstance(late, Broken)
    assert late.cause == "Timeout"
    assert "cpuSeconds" in late.message
    assert right.cause == "Right"


INT_AGE = "(declare-const age Int)(assert (> age 1))"
INT_X = "(declare-const x Int)"
REFLEXIVE = "(declare-const p Bool)(assert (not (=> p p)))"
# De Morgan's law: its negation, to be refuted.
DE_MORGAN = "(declare-const p Bool)(declare-const q Bool)(assert (not (= (not (and p q)) (or (not p) (not q)))))"
# Four pigeons, three holes: valid reasoning that no rewriting finds.
PIGEONS = "".join(f"(declare-const p{i}{j} Bool)" for i in range(4) for j in range(3))
PIGEONS += "".join(f"(assert (or p{i}0 p{i}1 p{i}2))" for i in range(4))
PIGEONS += "".join(f"(assert (not (and p{a}{j} p{b}{j})))" for j in range(3) for a in range(4) for b in range(a))


@pytest.mark.parametrize(
    ("settings", "cases"),
    [
        (
            {},
            {
                f"{INT_X}(assert (> x 3))(check-sat)(get-model)": "Satisfiable",
                f"(set-logic QF_LIA)(set-option :produce-models true) ; why\n{INT_X}(assert (! (> x 3) :named |a b|))": "Satisfiable",
                f"{INT_X}(assert (and (> x 3) (< x 3)))": "Unsatisfiable",
                "(declare-const r Real)(assert (= (* r r) 2.0))": "Satisfiable",
                f"{INT_X}(assert (= (* x x) 2))": "Unsatisfiable",
                "(declare-datatypes ((C 0)) (((red) (green))))(declare-const c C)(assert (= c red))": "Satisfiable",
                "(define-fun p ((a Bool)) Bool (not a))(declare-const b Bool)(assert (p b))": "Satisfiable",
                f"{INT_X}(assert (= x x))": "Tautology",
                f"{INT_X}(assert (or (> x 0) (<= x 0)))": "Tautology",
                f"{INT_X}(assert (> (* x x) (- 1)))": "Tautology",
                "(declare-const p Bool)(assert (or p (not p)))": "Tautology",
                "(assert true)": "Tautology",
                "(assert false)": "Unsatisfiable",
                f"{INT_X}(check-sat)": "NoAssertion",
                f"{INT_X}(exit)(assert (> x 3))": "NoAssertion",
                "": "NoAssertion",
                f"{INT_X}(push 1)(assert (> x 3))": "Unsupported",
                f"{INT_X}(assert (> x 3))(frobnicate)": "Unsupported",
                f"{INT_X}(assert (> x 3)": "ParseError",
                f"{INT_X}(assert (> y 3))": "ParseError",
                f"{INT_X}(assert (+ x 3))": "ParseError",
                f"{INT_X}(assert (> x 3)))": "ParseError",
                "x must be positive": "ParseError",
                '(assert "': "ParseError",
            },
        ),
        ({"allowTautologies": True}, {"(assert true)": "Satisfiable"}),
        (
            {"expect": "Unsatisfiable"},
            {
                REFLEXIVE: "Tautology",
                DE_MORGAN: "Unsatisfiable",
                PIGEONS: "Unsatisfiable",
                "(assert false)": "Tautology",
                f"{INT_X}(assert (> x 3))": "Satisfiable",
            },
        ),
        ({"expect": "Decided"}, {PIGEONS: "Unsatisfiable", f"{INT_X}(assert (> x 3))": "Satisfiable", "(assert true)": "Tautology"}),
        (
            {"prelude": "(declare-const age Int)(assert (>= age 0))", "expect": "Unsatisfiable"},
            {"(assert (< age 0))": "Unsatisfiable", "(assert (< age 1))": "Satisfiable", INT_AGE: "ParseError"},
        ),
        ({"prelude": "(declare-const age Int)(assert (>= age 0))"}, {"(assert (>= age 0))": "Satisfiable", "": "NoAssertion"}),
    ],
    ids=["to be satisfied", "tautologies allowed", "to be refuted", "either", "with premises", "premises are no assertion of the answer"],
)  # fmt: skip
def test_z3_decides_known_problems(settings: dict[str, Any], cases: dict[str, str]) -> None:
    assert dict(zip(cases, causes({"smt": settings}, list(cases)), strict=True)) == cases


def test_rightness_follows_from_what_is_expected() -> None:
    sat, unsat = f"{INT_X}(assert (> x 3))", f"{INT_X}(assert (= (* x x) 2))"

    def right(expect: str) -> list[bool]:
        return [isinstance(one, Score) and one.right for one in outcomes({"smt": {"expect": expect}}, [sat, unsat])]

    assert right("Satisfiable") == [True, False]
    assert right("Unsatisfiable") == [False, True]
    assert right("Decided") == [True, True]


# 114 as a sum of three cubes: nobody knows one, and nobody knows that there is none.
HARD = "(declare-const a Int)(declare-const b Int)(declare-const c Int)(assert (= (+ (* a a a) (* b b b) (* c c c)) 114))"


def test_the_solver_has_its_time_and_no_more() -> None:
    start = time.monotonic()

    late, good = outcomes({"smt": {"solverSeconds": 1}}, [HARD, f"{INT_X}(assert (> x 3))"])

    assert (late.cause, good.cause) == ("Timeout", "Satisfiable")
    assert isinstance(late, Score)
    assert not late.right
    assert isinstance(good, Score)
    assert good.solver_seconds is not None
    assert 0 <= good.solver_seconds < 1
    assert time.monotonic() - start < 15


def test_the_solver_has_its_memory_and_no_more() -> None:
    declared = "(declare-const x (_ BitVec 512))(declare-const y (_ BitVec 512))(assert (bvugt x (_ bv3 512)))"
    factors = f"{declared}(assert (= (bvmul x y) (_ bv91823781237812631263123 512)))(assert (= (bvurem x y) (_ bv7 512)))"

    assert causes({"smt": {"solverSeconds": 10, "memoryMib": 64}}, [factors, "(assert false)"]) == ["OutOfMemory", "Unsatisfiable"]


@pytest.mark.parametrize("scorer", [{"smt": {}}, {"grammar": {"document": 'start: "(" start ")" | "a"'}}], ids=["smt", "grammar"])
def test_deep_nesting_ends_nobody(scorer: dict[str, Any]) -> None:
    deep = {"smt": f"(declare-const p Bool)(assert {'(not ' * 20000}p{')' * 20000})", "grammar": "(" * 20000 + "a" + ")" * 20000}
    (name,) = scorer

    assert causes(scorer, [deep[name]]) in (["Satisfiable"], ["Right"])


def test_an_answer_cannot_write_files_or_speak_for_the_solver(tmp_path: Path) -> None:
    channel = f'(set-option :regular-output-channel "{tmp_path}/out")'

    assert causes({"smt": {}}, [f'{channel}{INT_X}(assert (= x x))(echo "sat")(echo "{{\\"result\\": \\"sat\\"}}")']) == ["Tautology"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("(a)(b c)", ["a", "b"]),
        ('(a ")" |(| ; )\n)', ["a"]),
        ('(a "x""y)")', ["a"]),
        ("(assert (a))(exit)(b", ["assert"]),
        ("((a))", ["("]),
        ("()", [")"]),
    ],
)
def test_commands_are_told_apart(text: str, names: list[str]) -> None:
    assert [name for name, _ in commands(text)] == names


@pytest.mark.parametrize("text", ["(a", ")", "a", '(a "b)', "(a |b)", "(a) b"])
def test_what_is_no_list_of_commands_is_none(text: str) -> None:
    with pytest.raises(NotSmtLibError):
        list(commands(text))


def shell(script: str, **settings: Any) -> dict[str, Any]:
    return {"command": {"argv": ["/bin/sh", "-c", script], "timeoutSeconds": 20} | settings}


@pytest.mark.parametrize(
    ("scorer", "answer", "cause"),
    [
        (shell('read line; test "$line" = yes'), "yes", "Right"),
        (shell('read line; test "$line" = yes'), "no", "Wrong"),
        ({"command": {"argv": ["grep", "-q", "--", "$(touch /tmp/never); *"]}}, "$(touch /tmp/never); *", "Right"),
        (shell('echo \'{"score": 0.7, "cause": "Good"}\'', verdict="Json"), "", "Good"),
        (shell('echo \'{"score": 0.3}\'', verdict="Json"), "", "Wrong"),
        (shell('echo \'{"score": 0.3}\'', verdict="Json", rightFrom="0.3"), "", "Right"),
        (shell('echo \'{"score": true, "cause": "not a word"}\'', verdict="Json"), "", "Right"),
        (shell("exit 2"), "", "ExitStatus"),
        (shell("kill -SEGV $$"), "", "Crashed"),
        (shell("echo no json", verdict="Json"), "", "BadScore"),
        (shell('echo \'{"score": 2}\'', verdict="Json"), "", "BadScore"),
        (shell('echo \'{"score": NaN}\'', verdict="Json"), "", "BadScore"),
        (shell("exit 1", verdict="Json"), "", "ExitStatus"),
        (shell("yes", outputBytes=1000), "", "Output"),
        ({"command": {"argv": ["/nonexistent/program"]}}, "", "ExitStatus"),
        ({"command": {"argv": ["python3", "-c", "x = bytearray(500_000_000)"], "memoryMib": 200, "onLimit": "Wrong"}}, "", "Wrong"),
    ],
)  # fmt: skip
def test_a_program_judges(scorer: dict[str, Any], answer: str, cause: str) -> None:
    assert causes(scorer, [answer]) == [cause]


@pytest.mark.parametrize(("on_limit", "kind"), [("Wrong", Score), ("Broken", Broken)])
@pytest.mark.parametrize("script", ["while :; do :; done", "sleep 60"], ids=["burns", "waits"])
def test_a_program_has_its_time_and_no_more(script: str, on_limit: str, kind: type) -> None:
    (found,) = outcomes(shell(script, cpuSeconds=1, timeoutSeconds=1, onLimit=on_limit), [""])

    assert isinstance(found, kind)
    assert found.cause == "Timeout"


def test_a_program_inherits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    names = "env | cut -d= -f1 | sort | grep -vE '^(PWD|OLDPWD|SHLVL|_)$' | tr '\\n' ' '"

    found = causes(
        shell(f'test "$({names})" = "HOME LANG PATH TMPDIR " && test -z "$(ls -A)" && test "$(ls /proc/self/fd | wc -l)" -le 4'), [""]
    )

    assert found == ["Right"]


def test_what_an_answer_leaves_behind_is_gone_for_the_next() -> None:
    assert causes(shell("test ! -e left && touch left && test -d $HOME"), ["a", "b"]) == ["Right", "Right"]


def test_nothing_a_program_started_outlives_its_answer(tmp_path: Path) -> None:
    outcomes(shell(f"setsid sleep 61 & echo $! > {tmp_path}/pid; exit 0"), ["a"])

    child = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_program_may_see_question_and_reference() -> None:
    script = "import json, sys; case = json.load(sys.stdin); sys.exit(case != {'question': 'q', 'answer': 'a', 'references': ['r']})"

    assert causes({"command": {"argv": ["python3", "-c", script], "stdin": "Json"}}, ["a"], question="q", references=("r",)) == ["Right"]


async def test_who_is_cancelled_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    script = f'read line; echo $$ > {tmp_path}/pid; test "$line" = slow && sleep 62; test "$line" = yes'
    judge = build(parse(Scorer, shell(script)), {}, processes=1)
    slow = asyncio.create_task(judge.judge(Case(Answer("slow"))))
    while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():  # noqa: ASYNC110 - another process writes
        await asyncio.sleep(0.01)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow

    found = await judge.judge(Case(Answer("yes")))
    await judge.aclose()

    assert found.right


async def test_a_lost_process_breaks_one_answer_and_is_replaced() -> None:
    judge = build(parse(Scorer, shell("exit 0")), {}, processes=1)
    assert isinstance(judge, Sandboxed)
    await judge.judge(Case(Answer("a")))
    (zygote,) = judge.pool._idle
    zygote.terminate()
    await zygote.wait()

    with pytest.raises(ScorerBrokenError) as raised:
        await judge.judge(Case(Answer("b")))
    assert raised.value.cause in TRANSIENT
    assert (await judge.judge(Case(Answer("c")))).right
    await judge.aclose()


def ended(output: str = "", status: int | None = 0, number: int | None = None, *, expired: bool = False, overflowed: bool = False) -> Ended:
    return Ended(output, None if number else status, number, expired, overflowed, 0.0)


PARSED, SAT = '{"parsed": "Parsed"}\n', '{"result": "sat", "seconds": 1.5}\n'


@pytest.mark.parametrize(
    ("end", "cause"),
    [
        (ended(PARSED + SAT + '{"tautology": false}\n'), "Satisfiable"),
        (ended(PARSED + SAT, number=signal.SIGXCPU), "Satisfiable"),
        (ended(PARSED + SAT + '{"tauto', number=signal.SIGKILL), "Satisfiable"),
        (ended(PARSED + '{"result": "unknown", "seconds": 1.0}\n{"tautology": false}\n'), "Unknown"),
        (ended(PARSED, number=signal.SIGPROF), "Timeout"),
        (ended(PARSED, number=signal.SIGXCPU), "Timeout"),
        (ended(PARSED, OUT_OF_MEMORY), "OutOfMemory"),
        (ended(PARSED, number=signal.SIGSEGV), "Broken: Crashed"),
        (ended(PARSED, number=signal.SIGKILL, expired=True), "Broken: Starved"),
        (ended("", number=signal.SIGPROF), "Timeout"),
        (ended("", OUT_OF_MEMORY), "OutOfMemory"),
        (ended(PARSED), "Broken: Silent"),
        (ended("", 70), "Broken: Crashed"),
    ],
)
def test_how_a_solver_ends_says_whose_fault_it_is(end: Ended, cause: str) -> None:
    try:
        said = smt_score(SmtScorer(), end).cause
    except ScorerBrokenError as error:
        said = f"Broken: {error.cause}"

    assert said == cause


def test_a_limit_of_a_command_blames_whom_its_author_says() -> None:
    wrong, broken = (CommandScorer(argv=["a"], on_limit=limit) for limit in ("Wrong", "Broken"))

    assert command_score(wrong, ended(overflowed=True)).cause == "Output"
    assert command_score(wrong, ended(number=signal.SIGXCPU)).cause == "Timeout"
    with pytest.raises(ScorerBrokenError, match="outputBytes 65536"):
        command_score(broken, ended(overflowed=True))
