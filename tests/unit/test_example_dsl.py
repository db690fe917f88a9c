"""The example world of examples/dsl: its judge judges, its dialects differ where they should, and its held-out set is held out."""

# ruff: noqa: S311 # reproducible samples, no secrets

import hashlib
import importlib
import json
import random
import sys
from itertools import islice
from pathlib import Path

import pytest

# The example is a user's own package, not part of the distribution; it is found as its README says, with examples/dsl on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "dsl"))
grammar = importlib.import_module("world.grammar")
judge = importlib.import_module("world.judge")
data = importlib.import_module("world.data")
folders = importlib.import_module("world.folders")


@pytest.fixture(scope="module")
def compiler():
    return judge.Judge(grammar.VARIABLES)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    data.write_data(folder, data.DataPlan(messages=600, instructions=100, heldout=300))
    return {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.iterdir()}


@pytest.mark.parametrize("construct", list(grammar.Construct), ids=lambda construct: construct.value)
def test_the_current_form_compiles_and_the_old_one_does_not_where_it_changed(compiler, construct):
    rng = random.Random(3)
    clauses = [grammar.draw_clause(rng, construct) for _ in range(100)]
    assert {clause.construct for clause in clauses} == {construct}
    assert [compiler.problem(clause.current) for clause in clauses] == [None] * 100
    assert {compiler.problem(clause.old) is not None for clause in clauses} == {construct.changed}


def test_nine_of_thirteen_constructs_changed():
    assert (len(grammar.Construct), len(grammar.CHANGED)) == (13, 9)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        pytest.param("user.level >= 3", None, id="an int against an int compiles"),
        pytest.param("user.level >= 3.0", "no matching overload", id="an int against a double does not"),
        pytest.param("user.risk < 30", "no matching overload", id="a double against an int does not"),
        pytest.param("user.level >= 'a'", "no matching overload", id="an int against a string does not"),
        pytest.param('"a" in user.groups', None, id="membership in a list of strings compiles"),
        pytest.param("1 in user.groups", "no matching overload", id="an int in a list of strings does not"),
        pytest.param('resource.labels["env"] == 1', "no matching overload", id="a map's value has its type"),
        pytest.param("user.nickname == 'x'", "undeclared reference", id="an undeclared variable does not"),
        pytest.param("user.level", "not BOOL", id="an expression that is no condition does not"),
        pytest.param("", "Syntax error", id="an empty answer does not"),
    ],
)
def test_the_judge_checks_syntax_and_types(compiler, expression, reason):
    problem = compiler.problem(expression)
    assert problem is None if reason is None else reason in problem


@pytest.mark.parametrize("name", ["INT", "list<INT>", "list(string)", "map<string>", "Timestamp", ""])
def test_an_unknown_type_is_refused_instead_of_meaning_a_message(name):
    with pytest.raises(ValueError, match="is no CEL type"):
        judge.cel_type(name)


def test_whole_rules_compile(compiler):
    rules = list(islice(data.unique_rules(random.Random(5), 0.5, heldout=False), 500))
    assert {rule.shape for rule in rules} == set(grammar.Shape)
    assert [compiler.problem(rule.expression()) for rule in rules] == [None] * 500


def test_the_order_of_interchangeable_clauses_does_not_decide_the_side():
    rng = random.Random(1)
    first, second, third = (grammar.draw_clause(rng, construct) for construct in grammar.CHANGED[:3])

    def canonical(shape, *clauses):
        return grammar.Rule("", shape, clauses).canonical()

    assert canonical(grammar.Shape.BOTH, first, second) == canonical(grammar.Shape.BOTH, second, first)
    assert canonical(grammar.Shape.BOTH, first, second) != canonical(grammar.Shape.EITHER, first, second)
    either = grammar.Shape.ONE_AND_EITHER
    assert canonical(either, first, second, third) == canonical(either, first, third, second)
    assert canonical(either, first, second, third) != canonical(either, second, first, third)


def test_no_held_out_expression_is_in_any_training_set():
    asked = list(islice(data.unique_rules(random.Random(12), data.PRODUCTION_SHARE, heldout=True), 1_000))
    taught = list(islice(data.unique_rules(random.Random(11), data.TAUGHT_SHARE, heldout=False), 2_000))
    rng = random.Random(7)
    grown_up_with = [data.pretraining_rule(rng) for _ in range(2_000)]
    heldout = {rule.canonical() for rule in asked}
    assert len(heldout) > 600
    assert not heldout & {rule.canonical() for rule in taught}
    assert not heldout & {rule.canonical() for rule in grown_up_with}


def test_the_files_share_no_expression_and_no_prompt(small):
    def turns(row):
        return tuple(turn["content"] for turn in row["messages"])

    taught = [turns(row) for row in small["rules.jsonl"]]
    taught += [(row["instruction"], row["output"]) for row in small["rules-instruction.jsonl"]]
    asked = [turns(row) for row in small["heldout.jsonl"]]
    prompts = [prompt for prompt, _ in taught + asked]
    assert (len(taught), len(asked)) == (700, 300)
    assert len(set(prompts)) == len(prompts)
    assert not {expression for _, expression in taught} & {expression for _, expression in asked}


def test_about_forty_percent_of_held_out_rules_need_a_changed_construct():
    rules = islice(data.unique_rules(random.Random(12), data.PRODUCTION_SHARE, heldout=True), 1_000)
    needing = sum(any(clause.construct.changed for clause in rule.clauses) for rule in rules)
    assert 350 <= needing <= 450


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    plan = data.DataPlan(messages=50, instructions=10, heldout=20)
    data.write_data(tmp_path / "a", plan)
    data.write_data(tmp_path / "b", plan)
    assert folders.folder_digest(tmp_path / "a") == folders.folder_digest(tmp_path / "b")


def test_the_folder_digest_is_taken_over_sorted_lines_of_digest_and_path(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes(b"one")
    (tmp_path / "sub" / "a.txt").write_bytes(b"two")
    lines = sorted([f"{hashlib.sha256(b'two').hexdigest()}  sub/a.txt\n", f"{hashlib.sha256(b'one').hexdigest()}  b.txt\n"])
    assert folders.folder_digest(tmp_path) == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        pytest.param({"GRAFT_CACHE": "/g", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/g", id="graft's own variable comes first"),
        pytest.param({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/graft", id="then the desktop's cache folder"),
        pytest.param({"HOME": "/h"}, "/h/.cache/graft", id="then the home folder"),
    ],
)
def test_where_the_cache_is(monkeypatch, environment, folder):
    for name in ("GRAFT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert folders.cache_folder() == Path(folder)
