"""
Probe prompts: what an agent asks after a load, to see that this very adapter works on this very base.

The prompts are made up by the base model itself with fixed seeds, in the user's place of the chat template (Xu et al. 2024,
"Magpie", arXiv 2406.08464): near enough to real questions for the adapter to show, and never anybody's data.
"""

from typing import Any, Final

import torch

from graft_api.artifact import Probe, Probes
from graft_trainer.evaluate import Arms
from graft_trainer.generation import ends_of, generate, logprobs

PROBES: Final = 12
CANDIDATES: Final = 36
PROMPT_TOKENS: Final = 24
CONTINUATION_TOKENS: Final = 16
MARK: Final = "GRAFT-PROBE"


def make_probes(arms: Arms, precision: str, seed: int) -> Probes:
    """Return the candidates on which base and adapter differ most."""
    prompts = _prompts(arms, seed)
    continuations = generate(arms.model, arms.tokenizer, prompts, CONTINUATION_TOKENS)
    ends = ends_of(arms.model, arms.tokenizer)
    probes = [_probe(arms, prompt, _until_end(ids, ends)) for prompt, ids in zip(prompts, continuations, strict=True)]
    return Probes(precision=precision, probes=sorted(probes, key=_difference, reverse=True)[:PROBES])


def _probe(arms: Arms, prompt: list[int], continuation: list[int]) -> Probe:
    with arms.base():
        base = logprobs(arms.model, prompt, continuation)
    return Probe(
        prompt_token_ids=prompt,
        continuation_token_ids=continuation,
        base_logprobs=base,
        adapter_logprobs=logprobs(arms.model, prompt, continuation),
    )


def _difference(probe: Probe) -> float:
    pairs = zip(probe.base_logprobs, probe.adapter_logprobs, strict=True)
    return sum(abs(adapter - base) for base, adapter in pairs) / len(probe.base_logprobs)


def _prompts(arms: Arms, seed: int) -> list[list[int]]:
    before, after = _frame(arms.tokenizer)
    ends = ends_of(arms.model, arms.tokenizer)
    torch.manual_seed(seed)
    with arms.base():
        made = generate(
            arms.model, arms.tokenizer, [before] * CANDIDATES, PROMPT_TOKENS, do_sample=True, temperature=1.0, top_k=0, top_p=1.0
        )
    special = set(arms.tokenizer.all_special_ids) | ends
    return [[*before, *_until_special(ids, special), *after] for ids in made]


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401 - transformers is not typed for us
    """Return the ids before and behind the user's text. Without a chat template there is the beginning of text alone."""
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template([{"role": "user", "content": MARK}], add_generation_prompt=True, tokenize=False)
        before, found, after = text.partition(MARK)
        if found:
            ids = [list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, after)]
            return ids[0] or [_first_id(tokenizer)], ids[1]
    return [_first_id(tokenizer)], []


def _first_id(tokenizer: Any) -> int:  # noqa: ANN401
    return int(tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id)


def _until_special(ids: list[int], special: set[int]) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in special), len(ids))
    return ids[:end]


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Return the ids up to and with the first end."""
    end = next((position for position, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: end + 1]
