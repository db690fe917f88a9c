"""
From prepared rows to token ids and labels.

Prompt and completion are tokenised apart, so that the boundary of the loss is exact and the prompt is token for token what
the server will see. The rows reach TRL with `labels`, hence neither its masking (which trains on everything when rows have
`messages`) nor its own tokenisation is involved.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # no stubs

from graft_api.reports import Reason
from graft_trainer.errors import BadInputError

IGNORED = -100
"""Label of a position that carries no loss, as torch's cross entropy has it."""
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
BATCH = 1000


@dataclass(frozen=True)
class Tokens:
    """One example as ids."""

    prompt: list[int]
    completion: list[int]


@dataclass(frozen=True)
class Tokenised:
    """What tokenising a file came to."""

    rows: int
    truncated: int
    dropped: int
    longest: int


def load_tokenizer(model: Path) -> Any:  # noqa: ANN401 - transformers is not typed for us
    """Load the base model's tokenizer; never code from its folder."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - preflight and prepare run without transformers

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInputError(Reason.BASE_MODEL_INVALID, f"spec.baseModel.uri: the tokenizer cannot be loaded: {_first(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BadInputError(
            Reason.BASE_MODEL_INVALID, "spec.baseModel.uri: the tokenizer has no end-of-sequence token, so answers could not end"
        )
    return tokenizer


def prompt_ids(tokenizer: Any, prompt: str | list[dict[str, str]]) -> list[int]:  # noqa: ANN401
    """Return the prompt as the server will see it."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return _ids(tokenizer, tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False))


def encode(tokenizer: Any, prompt: str | list[dict[str, str]], completion: str) -> Tokens:  # noqa: ANN401
    """Return prompt and completion, which always ends with the end-of-sequence token: what never learned to stop answers without end."""
    return Tokens(prompt_ids(tokenizer, prompt), _ended(tokenizer, _ids(tokenizer, _completion_text(tokenizer, prompt, completion))))


def write_arrow(tokenizer: Any, source: Path, target: Path, max_length: int) -> Tokenised:  # noqa: ANN401
    """Tokenise a prepared file into an Arrow file that is read without loading it."""
    rows = truncated = dropped = longest = 0
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for batch in _batches(source):
            ids, labels = [], []
            for row in batch:
                tokens = encode(tokenizer, row["prompt"], row["completion"])
                length = len(tokens.prompt) + len(tokens.completion)
                if len(tokens.prompt) >= max_length:
                    dropped += 1
                    continue
                rows, truncated, longest = rows + 1, truncated + (length > max_length), max(longest, min(length, max_length))
                ids.append([*tokens.prompt, *tokens.completion][:max_length])
                labels.append([*[IGNORED] * len(tokens.prompt), *tokens.completion][:max_length])
            writer.write_batch(
                pa.record_batch([pa.array(ids, SCHEMA.field(0).type), pa.array(labels, SCHEMA.field(1).type)], schema=SCHEMA)
            )
    return Tokenised(rows, truncated, dropped, longest)


def _completion_text(tokenizer: Any, prompt: str | list[dict[str, str]], completion: str) -> str:  # noqa: ANN401
    if isinstance(prompt, str):
        return completion
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    answered = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": completion}], tokenize=False)
    if not answered.startswith(asked):
        message = "spec.baseModel.uri: the chat template renders the same question differently once it is answered; use another template"
        raise BadInputError(Reason.BASE_MODEL_INVALID, message)
    return str(answered[len(asked) :])


def _ended(tokenizer: Any, ids: list[int]) -> list[int]:  # noqa: ANN401
    end = tokenizer.eos_token_id
    if end not in ids:
        return [*ids, end]
    return ids[: len(ids) - ids[::-1].index(end)]  # some templates add a line feed behind the end


def _ids(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _batches(source: Path) -> Iterator[list[dict[str, Any]]]:
    batch = []
    with source.open("rb") as file:
        for line in file:
            batch.append(json.loads(line))
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
