"""
What runs in every Ray Train worker: TRL's SFTTrainer around a PEFT model.

It reads and writes files only; the process that started it talks to the operator.
"""

import logging
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray.train
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from graft_api.finetunejob import FineTuneJobSpec, Progress
from graft_api.reports import Reason
from graft_trainer import checkpoints, folder, hyperparameters
from graft_trainer.errors import BadInputError, OutOfMemoryError
from graft_trainer.layout import WorkFolder
from graft_trainer.model import compute_dtype, device_of, load_model
from graft_trainer.records import Outcome, save
from graft_trainer.store import open_store
from graft_trainer.tokens import Tokenised, load_tokenizer

OUTCOME = "outcome.json"
SHORT = 512
"""
Tokens up to which plain attention beats the fused kernel's backward pass on a CPU (a fifth of a step at 100 tokens).

Beyond, its memory grows with the square of the length.
"""
LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "ray", "accelerate", "datasets")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that a worker needs to know."""

    spec: FineTuneJobSpec
    attempt_folder: str
    run_uri: str
    credentials: Path
    work: WorkFolder
    base_model: Path
    train: Path
    validation: Path | None
    tokenised: Tokenised
    resume: checkpoints.ResumePoint | None
    threads: int


def train(plan: TrainingPlan) -> None:
    """Train, or go on training, and leave the sealed adapter in the work folder."""
    context = ray.train.get_context()
    torch.set_num_threads(plan.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # repeats every metric
    with explained_memory(plan.spec):
        trainer = _trainer(plan, context.get_local_rank())
        keeper = Keeper(plan, rank=context.get_world_rank())
        trainer.add_callback(keeper)
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(plan.resume.path) if plan.resume else None)
        keeper.close()
        if context.get_world_rank() == 0 and not plan.work.stop.exists():
            _keep(plan, trainer)


class Keeper(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for us
    """Progress after every log, a sealed copy of every checkpoint, and an early end when the pod is asked to go."""

    def __init__(self, plan: TrainingPlan, rank: int) -> None:
        self._plan = plan
        self._rank = rank
        self._began = time.monotonic()
        self._first_step: int | None = None
        self._tokens: tuple[float, float] | None = None
        keep = plan.spec.training.checkpoints.keep if plan.spec.training and plan.spec.training.checkpoints else None
        store = open_store(plan.run_uri, plan.credentials)
        self._uploader = checkpoints.Uploader(store, plan.attempt_folder, plan.work.checkpoints, keep or 2) if rank == 0 else None

    def close(self) -> None:
        """Wait for the last checkpoint."""
        if self._uploader:
            self._uploader.close()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401 - transformers' hook
        """Remember where this process began, for the estimate of what is left."""
        del args, control
        if self._first_step is None:
            self._first_step, self._began = state.global_step, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401 - transformers' hook
        """Save and stop if the pod has to go."""
        del args, state
        if self._plan.work.stop.exists():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: object) -> None:  # noqa: ANN401 - transformers' hook
        """Leave the progress where the reporter finds it."""
        del args, control
        finite = {name: float(value) for name, value in logs.items() if isinstance(value, int | float) and math.isfinite(value)}
        if self._rank == 0:
            save(self._plan.work.progress, self._progress(state, finite))

    def on_save(self, args: Any, state: Any, control: Any, **_: object) -> None:  # noqa: ANN401 - transformers' hook
        """Seal and copy the checkpoint that was just written; tell Ray no oftener, since every rank waits for its controller to look."""
        del control
        ray.train.report({"step": state.global_step})
        if self._uploader:
            step = state.global_step
            checkpoints.seal(Path(args.output_dir) / f"checkpoint-{step}", self._plan.work.checkpoints, step)
            self._uploader.put(step, state.best_global_step)

    def _progress(self, state: Any, logs: dict[str, float]) -> Progress:  # noqa: ANN401
        done = state.global_step - (self._first_step or 0)
        seconds = time.monotonic() - self._began
        total = state.max_steps
        return Progress(
            stage="train",
            step=state.global_step,
            total_steps=total,
            epoch=round(float(state.epoch or 0), 4),
            loss=logs.get("loss"),
            eval_loss=logs.get("eval_loss"),
            learning_rate=logs.get("learning_rate"),
            tokens_per_second=self._tokens_per_second(logs),
            eta_seconds=round((total - state.global_step) * seconds / done) if done else None,
            percent=min(100, round(100 * state.global_step / total)) if total else None,
        )

    def _tokens_per_second(self, logs: dict[str, float]) -> float | None:
        if "num_tokens" not in logs:
            return None
        now, before = (time.monotonic(), logs["num_tokens"]), self._tokens
        self._tokens = now
        return round((now[1] - before[1]) / (now[0] - before[0]), 1) if before and now[0] > before[0] else None


@contextmanager
def explained_memory(spec: FineTuneJobSpec) -> Iterator[None]:
    """Turn every way in which memory runs out into advice."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(Reason.OUT_OF_MEMORY, advice(spec)) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's CPU allocator
            raise
        raise OutOfMemoryError(Reason.OUT_OF_MEMORY, advice(spec)) from error


def advice(spec: FineTuneJobSpec) -> str:
    """Say what to lower, with what it is now."""
    training = spec.training
    assert training is not None  # noqa: S101 - resolved
    steps = [f"lower spec.training.batchSize ({training.batch_size}) and raise gradientAccumulation ({training.gradient_accumulation})"]
    steps += [f"lower spec.training.maxLength ({training.max_length})"]
    steps += ["use spec.method: qlora"] if spec.method == "lora" else []
    return f"memory ran out; {', or '.join(steps)}, or give the pod more in spec.podTemplate.resources"


def _trainer(plan: TrainingPlan, local_rank: int) -> Any:  # noqa: ANN401 - trl is not typed for us
    spec = plan.spec
    transformers.set_seed(spec.training.seed if spec.training and spec.training.seed is not None else 0)
    model = _model(plan, local_rank)
    callbacks = []
    if spec.training and spec.training.early_stopping and plan.validation:
        stopping = spec.training.early_stopping
        callbacks.append(EarlyStoppingCallback(stopping.patience, float(stopping.min_delta or 0)))
    trainer = SFTTrainer(
        model=model,
        args=sft_config(plan),
        train_dataset=Dataset.from_file(str(plan.train)),
        eval_dataset=Dataset.from_file(str(plan.validation)) if plan.validation else None,
        processing_class=load_tokenizer(plan.base_model),
        callbacks=callbacks,
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL made them bfloat16 on a quantised base: small updates would be rounded away
            parameter.data = parameter.data.float()
    return trainer


def sft_config(plan: TrainingPlan) -> Any:  # noqa: ANN401 - trl is not typed for us
    """Return SFTConfig for this spec on this machine."""
    gpu, dtype = torch.cuda.is_available(), compute_dtype()
    machine = {
        "output_dir": str(plan.work.output),
        "use_cpu": not gpu,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "gradient_checkpointing": gpu,  # memory is what runs out on a GPU, time on a CPU
        "ddp_find_unused_parameters": False,
    }
    settings = hyperparameters.sft_settings(plan.spec, has_validation=plan.validation is not None)
    try:
        return SFTConfig(**{**machine, **settings})
    except (TypeError, ValueError, ImportError) as error:
        message = f"spec.training.extraArgs: SFTConfig refuses the settings: {str(error).partition(chr(10))[0][:300]}"
        raise BadInputError(Reason.INVALID_SETTING, message) from error


def _model(plan: TrainingPlan, local_rank: int) -> Any:  # noqa: ANN401 - peft is not typed for us
    spec = plan.spec
    assert spec.lora is not None  # noqa: S101 - resolved
    assert spec.training is not None  # noqa: S101
    base = load_model(plan.base_model, compute_dtype(), four_bit=spec.method == "qlora", device=device_of(local_rank))
    if not torch.cuda.is_available() and not spec.training.packing and plan.tokenised.longest <= SHORT:
        base.set_attn_implementation("eager")
    config = LoraConfig(
        r=spec.lora.rank or 8,
        lora_alpha=spec.lora.alpha or 16,
        lora_dropout=float(spec.lora.dropout or 0),
        target_modules=spec.lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        message = f"spec.lora.targetModules: {str(error).partition(chr(10))[0][:300]}"
        raise BadInputError(Reason.INVALID_SETTING, message) from error


def _keep(plan: TrainingPlan, trainer: Any) -> None:  # noqa: ANN401
    """Write the adapter and how it came about, and seal the folder."""
    state = trainer.state
    model = trainer.accelerator.unwrap_model(trainer.model)
    # "auto" would ask the hub whether the vocabulary grew.
    model.save_pretrained(str(plan.work.trained), save_embedding_layers=False)
    outcome = Outcome(
        step=state.global_step,
        best_step=state.best_global_step,
        resumed_from_step=plan.resume.step if plan.resume else None,
        tokens=next((int(entry["num_tokens"]) for entry in reversed(state.log_history) if "num_tokens" in entry), None),
        truncated_rows=plan.tokenised.truncated,
        dropped_rows=plan.tokenised.dropped,
        peak_memory_bytes=_peak_memory(),
        log=[_finite(entry) for entry in state.log_history],
        settings={name: value for name, value in trainer.args.to_dict().items() if isinstance(value, str | int | float | bool)},
        versions={name: version(name) for name in LIBRARIES},
    )
    save(plan.work.trained / OUTCOME, outcome)
    folder.seal(plan.work.trained, state.global_step)


def _finite(entry: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in entry.items() if isinstance(value, int | float) and math.isfinite(value)}


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
