"""Every sample is judged by pydantic here; tests/api/test_crds.py shows that the API server agrees."""

from pathlib import Path

import pytest
import yaml

from graft_api.crd import KINDS
from graft_api.schema import Invalid, parse

SAMPLES = Path(__file__).parents[1] / "data"
MODELS = {kind.model.__name__.lower(): kind.model for kind in KINDS}


def samples(quality):
    return [pytest.param(path, id=f"{path.parts[-3]}-{path.stem}") for path in sorted(SAMPLES.glob(f"*/{quality}/*.yaml"))]


def judged(value, path):
    return parse(MODELS[path.parts[-3]], value)


def load(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_has_samples_of_both_sorts(kind):
    assert all(any((SAMPLES / kind / quality).glob("*.yaml")) for quality in ("good", "bad"))


@pytest.mark.parametrize("path", samples("good"))
def test_good_sample_is_accepted_and_survives_a_round_trip(path):
    resource = judged(load(path), path)
    assert judged(resource.to_json(), path) == resource


@pytest.mark.parametrize("path", samples("bad"))
def test_bad_sample_is_refused_with_its_field(path):
    refused = path.read_text().splitlines()[0].removeprefix("# refused: ")
    with pytest.raises(Invalid) as error:
        judged(load(path), path)
    field = refused.removeprefix("metadata.") if refused == "metadata.name" else refused
    assert any(field in problem for problem in error.value.problems), error.value.problems
