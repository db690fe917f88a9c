from typing import Any

import pytest

from graft_trainer.errors import BadInputError
from graft_trainer.hyperparameters import OWNED, RESERVED, check_extra_args, known_fields, sft_settings


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("learnin_rate", "1", "no such field"),
        ("learning_rate", "1", r"set spec\.training\.learningRate instead"),
        ("output_dir", '"/tmp"', "the trainer sets this itself"),
        ("warmup_ratio", "0.1", r"set spec\.training\.warmupRatio instead"),
        ("packing_strategy", "bfd", "not a JSON value"),
    ],
)
def test_extra_arguments_that_cannot_be_set_are_named(manifest_of: Any, name: str, value: str, words: str) -> None:
    with pytest.raises(BadInputError, match=words) as raised:
        check_extra_args(manifest_of([], training={"extraArgs": {name: value}}).spec)

    assert raised.value.message.startswith(f"spec.training.extraArgs.{name}: ")


def test_other_fields_of_sftconfig_pass_as_json(manifest_of: Any) -> None:
    spec = manifest_of(
        [], training={"extraArgs": {"neftune_noise_alpha": "5", "packing_strategy": '"bfd"', "gradient_checkpointing": "true"}}
    ).spec

    check_extra_args(spec)

    settings = sft_settings(spec, has_validation=True)
    assert (settings["neftune_noise_alpha"], settings["packing_strategy"], settings["gradient_checkpointing"]) == (5, "bfd", True)


def test_what_graft_sets_exists_in_this_version_of_trl(manifest_of: Any) -> None:
    settings = sft_settings(manifest_of([], training={"checkpoints": {"everySteps": 5}}).spec, has_validation=True)

    assert set(settings) <= known_fields()
    assert {name for name in OWNED if name != "warmup_ratio"} <= known_fields()
    assert RESERVED & known_fields()


def test_without_validation_nothing_is_evaluated_and_the_last_weights_stay(manifest_of: Any) -> None:
    settings = sft_settings(manifest_of([]).spec, has_validation=False)

    assert (settings["eval_strategy"], settings["load_best_model_at_end"]) == ("no", False)
