"""
Acceptance: base and adapter asked the same questions, at the precision that will serve, judged by the same scorers.

Missing a threshold is a result, not an error.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft_api.artifact import CHECKPOINT_LIST, attempt_folder
from graft_api.evaluation import Suite
from graft_api.finetunejob import FineTuneJobSpec, Progress, SuiteResult
from graft_api.run import RunManifest
from graft_api.schema import canonical_json
from graft_evaluation.acceptance import accepted
from graft_evaluation.scorers import Answer, transcript
from graft_trainer import prepare, scoring, tokens
from graft_trainer.layout import WorkFolder
from graft_trainer.records import EvaluationRecord, load, save
from graft_trainer.split import HOLDOUT
from graft_trainer.store import Store

logger = logging.getLogger(__name__)

EVALUATION = "evaluation.json"


@dataclass
class Arms:
    """The base model and the adapter on it, loaded once at serving precision."""

    model: Any
    tokenizer: Any

    def base(self) -> Any:  # noqa: ANN401 - peft's context manager
        """Return a context in which the model is the base."""
        return self.model.disable_adapter()


def evaluate(manifest: RunManifest, arms: Callable[[], Arms], store: Store, work: WorkFolder, attempt: int) -> EvaluationRecord:
    """Return what the suites came to; judged once for an adapter, however many attempts it takes to publish it."""
    trained = hashlib.sha256((work.trained / CHECKPOINT_LIST).read_bytes()).hexdigest()
    record = _earlier(store, work, trained)
    if record is None:
        suites = list(_suites(manifest.spec, arms(), work))
        record = EvaluationRecord(trained=trained, suites=suites, accepted=accepted(suites))
        save(work.evaluation, record)
        store.write(f"{attempt_folder(attempt, manifest.job.uid)}/{EVALUATION}", canonical_json(record.to_json()))
    for suite in record.suites:
        logger.info("suite %s: %s", suite.suite, suite.message)
    return record


def load_arms(spec: FineTuneJobSpec, base: Path, trained: Path) -> Arms:
    """Load the base at serving precision with the adapter on top, in the same precision: servers load it so."""
    import peft  # noqa: PLC0415 - torch
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    from graft_trainer.model import DTYPES, device_of, load_model  # noqa: PLC0415
    from graft_trainer.train import threads  # noqa: PLC0415

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(threads())
    precision = spec.evaluation.precision or "bfloat16"
    dtype = DTYPES[precision]
    model = load_model(base, dtype, four_bit=precision == "nf4", device=device_of(0))
    model = peft.PeftModel.from_pretrained(model, str(trained), autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    return Arms(model.eval(), tokens.load_tokenizer(base))


def questions(tokenizer: Any, path: Path, limit: int | None) -> list[scoring.Question]:  # noqa: ANN401
    """
    Read a set; rows with the same prompt are one question with several right answers: a greedy answer is the same each time.

    Ordered by a hash, so that a limit takes rows from everywhere.
    """
    found: dict[bytes, tuple[Any, list[str]]] = {}
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line)
            found.setdefault(canonical_json(row["prompt"]), (row["prompt"], []))[1].append(row["completion"])
    order = sorted(found, key=lambda prompt: hashlib.sha256(prompt).digest())[:limit]
    asked = [(found[prompt][0], tuple(found[prompt][1])) for prompt in order]
    return [scoring.Question(tokens.prompt_ids(tokenizer, prompt), transcript(prompt), references) for prompt, references in asked]


def _suites(spec: FineTuneJobSpec, arms: Arms, work: WorkFolder) -> list[SuiteResult]:
    results = {}
    for path, suites in _by_rows(spec, work).items():
        limits = [suite.max_examples for suite in suites]
        asked = questions(arms.tokenizer, path, None if None in limits else max(limit or 0 for limit in limits))
        examples = {suite.name: scoring.examples_of(suite, len(asked)) for suite in suites}
        base, adapter = _answers(arms, asked[: max(examples.values())], spec, work)
        for suite in suites:
            first = slice(examples[suite.name])
            results[suite.name] = scoring.assess_suite(suite, asked[first], base[first], adapter[first], os.environ)
    return [results[suite.name] for suite in spec.evaluation.suites]


def _by_rows(spec: FineTuneJobSpec, work: WorkFolder) -> dict[Path, list[Suite]]:
    """Group the suites by the rows they ask about: each row is answered once."""
    grouped: dict[Path, list[Suite]] = {}
    for suite in spec.evaluation.suites:
        path = prepare.suite_file(work.data, suite.name) if suite.uri else work.data / HOLDOUT
        grouped.setdefault(path, []).append(suite)
    return grouped


def _answers(arms: Arms, asked: list[scoring.Question], spec: FineTuneJobSpec, work: WorkFolder) -> tuple[list[Answer], list[Answer]]:
    from graft_trainer.generation import answer  # noqa: PLC0415 - torch

    generation = spec.evaluation.generation
    assert generation is not None  # noqa: S101 - resolved
    prompts = [question.prompt for question in asked]
    length, batch = generation.max_new_tokens or 256, generation.batch_size or 32

    def say(part: int) -> Callable[[int, int], None]:
        return lambda done, total: save(work.progress, Progress(stage="evaluate", percent=50 * part + 50 * done // total))

    with arms.base():
        base = answer(arms.model, arms.tokenizer, prompts, length, batch, say(0))
    return base, answer(arms.model, arms.tokenizer, prompts, length, batch, say(1))


def _earlier(store: Store, work: WorkFolder, trained: str) -> EvaluationRecord | None:
    record = load(EvaluationRecord, work.evaluation)
    if record is not None and record.trained == trained:
        return record
    for entry in store.list("attempt-"):
        if entry.path.endswith(f"/{EVALUATION}") and entry.path.count("/") == 1:
            found = EvaluationRecord.model_validate_json(store.read(entry.path) or b"")
            if found.trained == trained:
                return found
    return None
