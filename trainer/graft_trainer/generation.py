"""Greedy answers and log-probabilities from a model, in batches sorted by length so that little is padding."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from graft_evaluation.scorers import Answer

Said = Callable[[int, int], None]
"""(answers so far, answers in all)"""


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, batch_size: int, said: Said) -> list[Answer]:  # noqa: ANN401
    """Return the greedy answer to each prompt, in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for index, ids in zip(batch, generate(model, tokenizer, [prompts[i] for i in batch], max_new_tokens), strict=True):
            answers[index] = _answer(tokenizer, ids, ends_of(model, tokenizer))
        said(len(answers), len(prompts))
    return [answers[index] for index in range(len(prompts))]


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int, **sampling: Any) -> list[list[int]]:  # noqa: ANN401
    """Return the new ids for each prompt, padding included; greedy unless `sampling` says otherwise."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=sorted(ends_of(model, tokenizer)), pad_token_id=pad, use_cache=True
    )
    config.update(**sampling)
    return [list(row) for row in model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()]


def ends_of(model: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401
    """Return the ids that end an answer: the tokenizer's and those that the model's generation settings add."""
    found = getattr(model.generation_config, "eos_token_id", None)
    listed = found if isinstance(found, list) else [found]
    return frozenset({tokenizer.eos_token_id, *(end for end in listed if end is not None)})


@torch.inference_mode()
def logprobs(model: Any, prompt: list[int], continuation: list[int]) -> list[float]:  # noqa: ANN401
    """Return the natural logarithm of the probability of each continuation token."""
    ids = torch.tensor([[*prompt, *continuation]], device=model.device)
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    chosen = torch.tensor(continuation, device=model.device)
    return [float(value) for value in torch.log_softmax(logits, dim=-1).gather(1, chosen[:, None])[:, 0]]


def _answer(tokenizer: Any, ids: list[int], ends: frozenset[int]) -> Answer:  # noqa: ANN401
    end = next((position for position, token in enumerate(ids) if token in ends), None)
    text = tokenizer.decode(ids if end is None else ids[:end], skip_special_tokens=True)
    return Answer(text, finished=end is not None)
