"""Every sample is judged by pydantic here; tests/api/test_crds.py shows that the API server agrees."""

from pathlib import Path

import pytest
import yaml

from graft_api.finetunejob import FineTuneJob
from graft_api.schema import Invalid, parse

SAMPLES = Path(__file__).parents[1] / "data" / "finetunejob"


def load(path):
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("path", sorted((SAMPLES / "good").glob("*.yaml")), ids=lambda p: p.stem)
def test_good_sample_is_accepted_and_survives_a_round_trip(path):
    job = parse(FineTuneJob, load(path))
    assert parse(FineTuneJob, job.to_json()) == job


@pytest.mark.parametrize("path", sorted((SAMPLES / "bad").glob("*.yaml")), ids=lambda p: p.stem)
def test_bad_sample_is_refused_with_its_field(path):
    refused = path.read_text().splitlines()[0].removeprefix("# refused: ")
    with pytest.raises(Invalid) as error:
        parse(FineTuneJob, load(path))
    field = refused.removeprefix("metadata.") if refused == "metadata.name" else refused
    assert any(field in problem for problem in error.value.problems), error.value.problems
