"""What follows from domain and method, and what names a run."""

from pathlib import Path

import pytest
import yaml

from graft_api import resolve
from graft_api.finetunejob import FineTuneJob, Lora
from graft_api.schema import parse

SAMPLES = Path(__file__).parents[1] / "data" / "finetunejob" / "good"


def spec_of(**changes):
    body = yaml.safe_load((SAMPLES / "minimal.yaml").read_text())
    return parse(FineTuneJob, body | {"spec": body["spec"] | changes}).spec


@pytest.mark.parametrize(
    ("domain", "examples", "epochs", "threshold"),
    [
        ("dsl", 5000, 3, "0.01"),
        ("governance", 1000, 5, None),
        ("multimodal", 10000, 2, None),
        ("support", 100, 3, None),
    ],
)
def test_the_domain_decides_what_is_left_open(domain, examples, epochs, threshold):
    resolved = resolve.resolve(spec_of(domain=domain))
    assert (resolved.dataset.min_examples, resolved.training.epochs) == (examples, epochs)
    accept = resolved.evaluation.suites[0].accept
    assert (accept.max if accept else None) == threshold


def test_what_the_user_says_wins_field_by_field():
    resolved = resolve.resolve(
        spec_of(lora={"rank": 8}, training={"epochs": 1}, dataset={"sources": [{"uri": "s3://a/b"}], "minExamples": 7})
    )
    assert resolved.lora == Lora(rank=8, alpha=128, dropout="0.05", target_modules=resolve.TARGET_MODULES)
    assert (resolved.training.epochs, resolved.training.learning_rate) == (1, "2e-4")
    assert resolved.dataset.min_examples == 7
    assert resolved.dataset.holdout.fraction == "0.1"


def test_resolving_twice_changes_nothing():
    once = resolve.resolve(spec_of())
    assert resolve.resolve(once) == once


def test_a_full_fine_tune_has_no_adapter():
    assert resolve.resolve(spec_of(method="full")).lora is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        pytest.param({"backoffLimit": 9}, True, id="a budget does not"),
        pytest.param({"suspend": True}, True, id="suspending does not"),
        pytest.param({"podTemplate": {"nodeSelector": {"gpu": "h100"}}}, True, id="where it runs does not"),
        pytest.param({"credentials": {"secretRef": {"name": "other"}}}, True, id="credentials do not"),
        pytest.param({"training": {"seed": 8}}, False, id="a hyperparameter does"),
        pytest.param({"training": {"seed": 7}}, True, id="saying the default does not"),
        pytest.param({"baseModel": {"uri": "s3://models/other"}}, False, id="the base model does"),
    ],
)
def test_what_makes_another_run(change, same):
    first, second = (resolve.spec_hash(resolve.resolve(spec_of(**spec))) for spec in ({}, change))
    assert (first == second) is same


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "full"}, "spec.method"),
        ({"baseModel": {"fromJob": "earlier"}}, "spec.baseModel"),
        ({"baseModel": {"uri": "hf://org/model"}}, "spec.baseModel.uri"),
        ({"dataset": {"sources": [{"uri": "ipfs://bafy"}]}}, "spec.dataset.sources[0].uri"),
        ({"output": {"uri": "s3://a", "exports": [{"format": "merged"}]}}, "spec.output.exports"),
        ({"output": {"uri": "s3://a", "ipfs": {"api": "http://ipfs:5001"}}}, "spec.output.ipfs"),
        ({"tracking": {"mlflow": {"trackingUri": "http://mlflow"}}}, "spec.tracking"),
        ({"workers": {"count": 2}}, "spec.workers.count"),
    ],
)
def test_what_this_version_cannot_do_is_named(change, field):
    (problem,) = resolve.unsupported(spec_of(**change))
    assert problem.startswith(f"{field}:")


def test_everything_else_is_supported():
    assert resolve.unsupported(spec_of()) == []
