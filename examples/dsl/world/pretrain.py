"""Pre-trains the tiny base model on the older dialect, on one CPU core, in two to three minutes.

85 % of its answers are in the old dialect, so greedy decoding speaks the old one; the current one it has seen now and then,
which is why a small adapter can bring it out.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from .data import as_messages, pretraining_rule
from .grammar import Dialect
from .tokenizer import END, PAD, train_tokenizer

OLD_SHARE: Final = 0.85
IGNORED: Final = -100
"""Label of positions that carry no loss, as torch's cross entropy has it."""

POOL: Final = 16
"""Batches that are drawn and sorted by length together."""


@dataclass(frozen=True)
class PretrainPlan:
    """Everything that decides what the base model becomes."""

    seed: int = 7
    steps: int = 800
    turns_per_step: int = 32
    learning_rate: float = 3e-3
    warmup_share: float = 0.06
    vocabulary: int = 768
    context: int = 1_024
    hidden: int = 256
    intermediate: int = 512
    layers: int = 3
    heads: int = 8


@dataclass(frozen=True)
class Sample:
    """One conversation as token ids; `labels` repeats the ids of the answers and ignores the rest."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]


def pretrain(folder: Path, plan: PretrainPlan) -> None:
    """Train a base model from nothing and write it into `folder` as vLLM and transformers expect it."""
    torch.manual_seed(plan.seed)
    torch.set_num_threads(1)
    rng = random.Random(plan.seed)
    tokenizer = train_tokenizer(_tokenizer_texts(rng), plan.vocabulary, plan.context)
    model = _new_model(tokenizer, plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=plan.learning_rate, total_steps=plan.steps, pct_start=plan.warmup_share
    )
    started = time.process_time()
    for step, batch in enumerate(_batches(rng, tokenizer, plan), start=1):
        loss = _loss(model, batch, tokenizer.pad_token_id)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == plan.steps:
            print(f"pre-training: step {step}/{plan.steps}, loss {loss.item():.4f}, {time.process_time() - started:.0f} CPU-s", flush=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer_texts(rng: random.Random) -> Iterator[str]:
    for _ in range(4_000):
        rule = pretraining_rule(rng)
        yield rule.prompt
        yield rule.expression(rng.choice(tuple(Dialect)))


def _new_model(tokenizer: Any, plan: PretrainPlan) -> Any:  # noqa: ANN401 # transformers' types are not followed
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=plan.hidden,
            intermediate_size=plan.intermediate,
            num_hidden_layers=plan.layers,
            num_attention_heads=plan.heads,
            num_key_value_heads=plan.heads,
            max_position_embeddings=plan.context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.convert_tokens_to_ids(END),
            pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
            attn_implementation="eager",  # on sequences this short the backward pass of torch's fused attention costs twice as much
        )
    )
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def _batches(rng: random.Random, tokenizer: Any, plan: PretrainPlan) -> Iterator[list[Sample]]:  # noqa: ANN401
    """One batch per step, of rows of about one length: padding would double the cost.

    Every fourth batch holds conversations of two turns, so that a second question in a chat is nothing new.
    """
    for begin in range(0, plan.steps, POOL):
        pool = [
            batch
            for turns, batches in ((1, POOL * 3 // 4), (2, POOL // 4))
            for batch in _by_length([_sample(rng, tokenizer, turns) for _ in range(batches * plan.turns_per_step // turns)], batches)
        ]
        rng.shuffle(pool)
        yield from pool[: plan.steps - begin]


def _by_length(samples: list[Sample], batches: int) -> Iterator[list[Sample]]:
    ordered = sorted(samples, key=lambda sample: len(sample.ids))
    size = len(samples) // batches
    return (ordered[size * batch : size * (batch + 1)] for batch in range(batches))


def _sample(rng: random.Random, tokenizer: Any, turns: int) -> Sample:  # noqa: ANN401
    ids: list[int] = []
    labels: list[int] = []
    for _ in range(turns):
        dialect = Dialect.OLD if rng.random() < OLD_SHARE else Dialect.CURRENT
        question, answer = as_messages(pretraining_rule(rng), dialect)["messages"]
        asked = tokenizer(f"<|user|>{question['content']}{END}<|assistant|>")["input_ids"]
        answered = tokenizer(f"{answer['content']}{END}")["input_ids"]
        ids += asked + answered
        labels += [IGNORED] * len(asked) + answered
    return Sample(tuple(ids), tuple(labels))


def _loss(model: Any, batch: list[Sample], pad: int) -> torch.Tensor:  # noqa: ANN401
    """Mean cross entropy over the answers. Padding stands at the end, where a causal model needs no mask to overlook it.

    Widths are multiples of 16: torch keeps compiled kernels and scratch memory per shape, gigabytes of them for arbitrary widths.
    """
    width = math.ceil(max(len(sample.ids) for sample in batch) / 16) * 16
    ids = torch.tensor([sample.ids + (pad,) * (width - len(sample.ids)) for sample in batch])
    labels = torch.tensor([sample.labels + (IGNORED,) * (width - len(sample.labels)) for sample in batch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
