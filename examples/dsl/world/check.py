"""Does fine-tuning repair the base model? Measured with plain TRL and PEFT, without graft.

`python -m world.check --world DIR` trains a QLoRA adapter on DIR/data, asks base and adapter every held-out prompt greedily
in bfloat16, and prints compile errors with Wilson intervals.
"""

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from .data import PRODUCTION_SHARE, unique_rules
from .grammar import VARIABLES
from .judge import Judge

PROJECTIONS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Score:
    """Outcome of one model on the held-out prompts."""

    name: str
    errors: int
    exact: int
    total: int

    def __str__(self) -> str:
        low, high = wilson(self.errors, self.total)
        return (
            f"{self.name}: {self.errors}/{self.total} compile errors = {self.errors / self.total:.1%} "
            f"(95 % Wilson {low:.1%} to {high:.1%}), exact {self.exact / self.total:.1%}"
        )


def wilson(events: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson, JASA 22, 1927)."""
    share, weight = events / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def training_rows(data: Path) -> list[dict[str, Conversation]]:
    """Both training files as prompt and completion.

    Not as `messages`: there TRL's completion-only loss raises nothing and trains on the questions too.
    """
    rows = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in _read(data / "rules.jsonl")]
    rows += [(row["instruction"], row["output"]) for row in _read(data / "rules-instruction.jsonl")]
    return [
        {"prompt": [{"role": "user", "content": question}], "completion": [{"role": "assistant", "content": answer}]}
        for question, answer in rows
    ]


def train_adapter(base: Path, rows: list[dict[str, Conversation]], out: Path, seed: int) -> None:
    """QLoRA: NF4 with double quantisation, rank 16, two epochs."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=quantization, device_map="cpu", attn_implementation="eager")
    trainer = SFTTrainer(
        model=prepare_model_for_kbit_training(model, use_gradient_checkpointing=False),
        args=SFTConfig(
            output_dir=str(out / "run"),
            num_train_epochs=2,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.03,
            max_length=256,
            packing=False,
            completion_only_loss=True,
            bf16=True,
            use_cpu=True,
            gradient_checkpointing=False,
            train_sampling_strategy="group_by_length",
            optim="adamw_torch",
            save_strategy="no",
            report_to="none",
            logging_steps=50,
            seed=seed,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=PROJECTIONS, task_type="CAUSAL_LM"),
    )
    # TRL casts LoRA weights of a 4-bit model to bfloat16, too coarse for this learning rate's last steps.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.train()
    trainer.model.save_pretrained(out)


def answers(model: Any, tokenizer: Any, chats: Sequence[Conversation], batch: int = 50) -> list[str]:  # noqa: ANN401
    """Greedy answers to the last question of each chat, in order."""
    tokenizer.padding_side = "left"
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    found: dict[int, str] = {}
    for begin in range(0, len(order), batch):
        chosen = order[begin : begin + batch]
        inputs = tokenizer([texts[index] for index in chosen], return_tensors="pt", padding=True)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=96, do_sample=False)
        replies = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found.update(zip(chosen, replies, strict=True))
    return [found[index] for index in range(len(texts))]


def score(name: str, replies: Sequence[str], expected: Sequence[str], judge: Judge) -> Score:
    """Count what does not compile, and what is word for word the expected expression."""
    errors = sum(judge.problem(reply) is not None for reply in replies)
    return Score(name, errors, sum(reply == want for reply, want in zip(replies, expected, strict=True)), len(replies))


def second_turns(rows: list[dict[str, Any]], seed: int) -> list[Conversation]:
    """The same held-out questions, each asked after a first question that was answered in the current dialect."""
    first = unique_rules(random.Random(seed), PRODUCTION_SHARE, heldout=True)
    return [
        [{"role": "user", "content": rule.prompt}, {"role": "assistant", "content": rule.expression()}, row["messages"][0]]
        for rule, row in zip(first, rows, strict=False)
    ]


def main() -> None:
    """Train once, ask both models, print."""
    parser = argparse.ArgumentParser(prog="python -m world.check", description=__doc__)
    parser.add_argument("--world", type=Path, required=True, help="folder that `python -m world --out` wrote")
    parser.add_argument("--seed", type=int, default=7, help="seed of the adapter")
    parser.add_argument("--samples", type=int, default=6, help="questions to print with both answers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = options.world / "base"
    heldout = _read(options.world / "data" / "heldout.jsonl")
    chats = [row["messages"][:1] for row in heldout]
    later = second_turns(heldout[:300], options.seed)
    expected = [row["messages"][1]["content"] for row in heldout]
    judge = Judge(VARIABLES)
    tokenizer = AutoTokenizer.from_pretrained(base)
    with tempfile.TemporaryDirectory() as scratch:
        clock = time.process_time()
        train_adapter(base, training_rows(options.world / "data"), Path(scratch), options.seed)
        print(f"QLoRA: {time.process_time() - clock:.0f} CPU-s")
        clock = time.process_time()
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
        before, before_later = answers(model, tokenizer, chats), answers(model, tokenizer, later)
        model = PeftModel.from_pretrained(model, scratch).eval()
        after, after_later = answers(model, tokenizer, chats), answers(model, tokenizer, later)
        print(f"evaluation: {time.process_time() - clock:.0f} CPU-s")
    print(score("base", before, expected, judge))
    print(score("adapter", after, expected, judge))
    print(score("base, second turn", before_later, expected[: len(later)], judge))
    print(score("adapter, second turn", after_later, expected[: len(later)], judge))
    refused = [index for index, reply in enumerate(before) if judge.problem(reply) is not None]
    for index in refused[: options.samples]:
        print(f"\n{chats[index][0]['content']}")
        print(f"  base     {before[index]}")
        print(f"  refused  {judge.problem(before[index])}")
        print(f"  adapter  {after[index]}")


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
