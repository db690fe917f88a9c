"""
From the spec's words to SFTConfig's.

The names that SFTConfig knows are read from its source, not from the class: preflight must say "unknown field" within a
second, and importing the class imports torch.
"""

import ast
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from graft_api.finetunejob import FineTuneJobSpec
from graft_api.reports import Reason
from graft_trainer.errors import BadInputError

CONFIG_SOURCES: Final = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
)

OWNED: Final[Mapping[str, str]] = {
    "num_train_epochs": "spec.training.epochs",
    "learning_rate": "spec.training.learningRate",
    "lr_scheduler_type": "spec.training.scheduler",
    "warmup_steps": "spec.training.warmupRatio",
    "warmup_ratio": "spec.training.warmupRatio",
    "optim": "spec.training.optimizer",
    "per_device_train_batch_size": "spec.training.batchSize",
    "gradient_accumulation_steps": "spec.training.gradientAccumulation",
    "max_length": "spec.training.maxLength",
    "weight_decay": "spec.training.weightDecay",
    "max_grad_norm": "spec.training.maxGradNorm",
    "packing": "spec.training.packing",
    "seed": "spec.training.seed",
    "data_seed": "spec.training.seed",
    "logging_steps": "spec.training.logEverySteps",
    "save_steps": "spec.training.checkpoints.everySteps",
    "eval_steps": "spec.training.checkpoints.everySteps",
    "save_total_limit": "spec.training.checkpoints.keep",
    "train_sampling_strategy": "spec.dataset.curriculum",
}
"""SFTConfig fields that have a place of their own in the spec."""

RESERVED: Final = frozenset({
    "output_dir", "save_strategy", "eval_strategy", "logging_strategy", "load_best_model_at_end", "metric_for_best_model",
    "greater_is_better", "resume_from_checkpoint", "report_to", "run_name", "use_cpu", "do_train", "do_eval", "do_predict",
    "completion_only_loss", "assistant_only_loss", "dataset_text_field", "dataset_kwargs", "dataset_num_proc", "remove_unused_columns",
    "chat_template_path", "eos_token", "pad_token", "model_init_kwargs", "disable_tqdm", "save_only_model", "save_on_each_node",
    "enable_jit_checkpoint", "ignore_data_skip", "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo",
    "hub_always_push", "hub_revision", "trackio_space_id", "project", "trust_remote_code", "deepspeed", "fsdp", "fsdp_config",
    "local_rank", "ddp_backend", "ddp_find_unused_parameters", "label_names", "shuffle_dataset",
})  # fmt: skip
"""What the trainer itself depends on: changing it would break resuming, masking or publishing."""


def extra_args(spec: FineTuneJobSpec) -> dict[str, Any]:
    """Return `spec.training.extraArgs` with its JSON values parsed."""
    assert spec.training is not None  # noqa: S101 - resolved
    return {name: _value(name, text) for name, text in (spec.training.extra_args or {}).items()}


def check_extra_args(spec: FineTuneJobSpec) -> None:
    """Refuse names that SFTConfig has not, and those that graft sets itself."""
    known = known_fields()
    for name in extra_args(spec):
        field = f"spec.training.extraArgs.{name}"
        if name in OWNED:
            raise BadInputError(Reason.INVALID_SETTING, f"{field}: set {OWNED[name]} instead")
        if name in RESERVED:
            raise BadInputError(Reason.INVALID_SETTING, f"{field}: the trainer sets this itself; leave it out")
        if name not in known:
            raise BadInputError(Reason.INVALID_SETTING, f"{field}: TRL's SFTConfig has no such field; check its spelling")


def known_fields() -> frozenset[str]:
    """Return the names of SFTConfig's fields."""
    return frozenset(name for package, file, owner in CONFIG_SOURCES for name in _annotated(_package(package) / file, owner))


def sft_settings(spec: FineTuneJobSpec, *, has_validation: bool) -> dict[str, Any]:
    """Return SFTConfig's arguments as far as the spec decides them; machine and folders are the caller's."""
    training = spec.training
    assert training is not None  # noqa: S101 - resolved
    assert training.learning_rate is not None  # noqa: S101
    every = training.checkpoints.every_steps if training.checkpoints else None
    strategy = "steps" if every else "epoch"
    settings = {
        "num_train_epochs": training.epochs,
        "learning_rate": float(training.learning_rate),
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": float(training.warmup_ratio or 0),  # below 1 it is a share of all steps
        "optim": training.optimizer,
        "per_device_train_batch_size": training.batch_size,
        "per_device_eval_batch_size": training.batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "max_length": training.max_length,
        "weight_decay": float(training.weight_decay or 0),
        "max_grad_norm": float(training.max_grad_norm or 1),
        "packing": training.packing,
        "seed": training.seed,
        "logging_steps": training.log_every_steps,
        "save_strategy": strategy,
        "eval_strategy": strategy if has_validation else "no",
        "load_best_model_at_end": has_validation,
        "metric_for_best_model": "eval_loss" if has_validation else None,
        "save_total_limit": max(2, (training.checkpoints.keep if training.checkpoints else None) or 2),
        "train_sampling_strategy": "sequential" if spec.dataset.curriculum else "random",
        "dataset_kwargs": {"skip_prepare_dataset": not training.packing},  # rows come with ids and labels
        "report_to": "none",
        "disable_tqdm": True,
    }
    if every:
        settings |= {"save_steps": every, "eval_steps": every}
    return settings | extra_args(spec)


def _value(name: str, text: str) -> Any:  # noqa: ANN401 - a JSON value
    try:
        return json.loads(text)
    except ValueError as error:
        message = f"spec.training.extraArgs.{name}: not a JSON value; quote strings inside the string, such as '\"bfd\"'"
        raise BadInputError(Reason.INVALID_SETTING, message) from error


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise RuntimeError(f"{name} is not installed")
    return Path(found.origin).parent


def _annotated(file: Path, owner: str) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == owner)
    return [item.target.id for item in body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
