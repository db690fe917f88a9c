"""What the loss sees: the completion, all of it, its end included, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from graft_trainer import tokens

PROMPT = [{"role": "user", "content": "abc"}]


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    return tokens.load_tokenizer(model)


def test_prompt_and_completion_are_what_the_server_renders(tokenizer: Any) -> None:
    encoded = tokens.encode(tokenizer, PROMPT, "XY")

    assert tokenizer.decode(encoded.prompt) == "<|user|>abc<|end|>\n<|assistant|>"
    assert tokenizer.decode(encoded.completion) == "XY<|end|>", "the template's line feed behind the end is not learned"


def test_plain_text_ends_too(tokenizer: Any) -> None:
    encoded = tokens.encode(tokenizer, "abc=", "XY")

    assert (tokenizer.decode(encoded.prompt), tokenizer.decode(encoded.completion)) == ("abc=", "XY<|end|>")


def test_what_reaches_trls_collator_is_masked_up_to_the_completion(tokenizer: Any, tmp_path: Path) -> None:
    """TRL's silent trap: rows with `messages` and completion_only_loss=True train on everything, and nothing says so."""
    from datasets import Dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    source = tmp_path / "train.jsonl"
    tiny.write_rows(
        source, [{"prompt": PROMPT, "completion": "XY"}, {"prompt": [{"role": "user", "content": "longer"}], "completion": "Z"}]
    )
    tokens.write_arrow(tokenizer, source, tmp_path / "train.arrow", 64)

    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(list(Dataset.from_file(str(tmp_path / "train.arrow"))))

    learned = [tokenizer.decode([token for token in row if token != -100]) for row in batch["labels"].tolist()]
    assert learned == ["XY<|end|>", "Z<|end|>"]
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        assert all(label in {token, -100} for token, label in zip(ids, labels, strict=True))


def test_long_rows_are_cut_and_counted(tokenizer: Any, tmp_path: Path) -> None:
    source = tmp_path / "train.jsonl"
    lengths = [(3, 3), (3, 60), (60, 3)]
    source.write_text("".join(json.dumps({"prompt": "p" * p, "completion": "c" * c}) + "\n" for p, c in lengths))

    assert tokens.write_arrow(tokenizer, source, tmp_path / "x.arrow", 32) == tokens.Tokenised(rows=2, truncated=1, dropped=1, longest=32)


def test_probabilities_and_answers_are_those_of_the_model_alone(model: Path, tokenizer: Any) -> None:
    """Batches with padding answer as a prompt alone does; log-probabilities as transformers' own loss has them."""
    import os

    pid = os.fork()  # torch must not run in the process that later tests fork from
    if pid == 0:
        try:
            _check_generation(model, tokenizer)
        except BaseException:  # noqa: BLE001 - the edge of a forked process
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _check_generation(model: Path, tokenizer: Any) -> None:
    import torch

    from graft_trainer.generation import generate, logprobs
    from graft_trainer.model import load_model

    loaded = load_model(model, torch.float32, four_bit=False, device="cpu").eval()
    prompts = [tokens.prompt_ids(tokenizer, text) for text in ("a", "hello there", "some more text")]
    together = generate(loaded, tokenizer, prompts, 5)
    assert together == [generate(loaded, tokenizer, [prompt], 5)[0] for prompt in prompts]
    prompt, continuation = prompts[1], together[1]
    ids = torch.tensor([prompt + continuation])
    labels = torch.tensor([[-100] * len(prompt) + continuation])
    assert sum(logprobs(loaded, prompt, continuation)) / len(continuation) == pytest.approx(
        -loaded(input_ids=ids, labels=labels).loss.item(), abs=1e-4
    )
