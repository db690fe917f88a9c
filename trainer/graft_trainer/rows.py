"""
Pure: from a JSON line to examples.

What is refused is said in words about its shape; content of the data never leaves this module in a message.
"""

import hashlib
import json
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["messages", "instruction", "promptCompletion"]
Prompt = str | tuple["Message", ...]

ROLES = ("system", "user", "assistant", "tool")


class RowInvalidError(ValueError):
    """A row that its author must change. The message speaks of fields and types only."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One thing to learn, or to ask: a prompt and its answer."""

    prompt: Prompt
    completion: str

    def length(self) -> int:
        """Return the characters of prompt and completion."""
        prompt = self.prompt if isinstance(self.prompt, str) else "".join(message.content for message in self.prompt)
        return len(prompt) + len(self.completion)

    def to_line(self) -> bytes:
        """Return the line of a prepared file."""
        prompt = self.prompt if isinstance(self.prompt, str) else [{"role": m.role, "content": m.content} for m in self.prompt]
        return json.dumps({"prompt": prompt, "completion": self.completion}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Row:
    """One line of a source: one example, or one for each answer of a longer conversation."""

    examples: tuple[Example, ...]
    negative: bool
    """Known to be wrong: counted and split, never imitated."""
    group: bytes
    """Rows with the same group stay on the same side of the split."""
    identity: bytes
    """Equal for rows that say the same."""
    order: float | str | None = None
    """Value of the curriculum's field."""


@dataclass(frozen=True)
class RowReader:
    """How the lines of one source are read."""

    format: Format | Literal["auto"]
    chat: bool
    """The base model has a chat template: instructions become conversations of one turn, else plain text."""
    group_by: str | None = None
    order_by: str | None = None

    def detect(self, line: bytes) -> "RowReader":
        """Return a reader with the format of a file whose first row is `line`."""
        if self.format != "auto":
            return self
        row = _object(line)
        for name, fields in FIELDS.items():
            if fields <= row.keys():
                return RowReader(name, self.chat, self.group_by, self.order_by)
        wanted = ", or ".join(" + ".join(sorted(fields)) for fields in FIELDS.values())
        raise RowInvalidError(f"no known format: the row must have the fields {wanted}")

    def read(self, line: bytes) -> Row:
        """Return the row of one line. Raises `RowInvalidError`."""
        row = _object(line)
        if self.format == "messages":
            examples, group = self._conversation(row)
        elif self.format == "instruction":
            examples, group = self._instruction(row)
        else:
            examples, group = self._prompt_completion(row)
        negative = _negative(row)
        said = "\0".join([*_texts(examples[-1].prompt), examples[-1].completion, "negative" if negative else ""])
        return Row(
            examples=examples,
            negative=negative,
            group=_hash(_by_field(row, self.group_by) if self.group_by else group),
            identity=_hash(_spaces(said)),
            order=_order(row, self.order_by) if self.order_by else None,
        )

    def _conversation(self, row: dict[str, Any]) -> tuple[tuple[Example, ...], str]:
        if not self.chat:
            raise RowInvalidError(
                "the base model has no chat template, so rows with messages cannot be rendered; use prompt and completion"
            )
        messages = _messages(row, "messages")
        answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
        if not answers or answers[0] == 0:
            raise RowInvalidError("messages must hold an assistant message after a user message")
        examples = tuple(Example(messages[:index], messages[index].content) for index in answers)
        if not all(example.completion.strip() for example in examples):
            raise RowInvalidError("an assistant message is empty")
        return examples, normalise(messages[: answers[0]])

    def _instruction(self, row: dict[str, Any]) -> tuple[tuple[Example, ...], str]:
        instruction, output = _text(row, "instruction"), _text(row, "output")
        context = row.get("input") or ""
        if not isinstance(context, str):
            raise RowInvalidError("input must be a string")
        asked = f"{instruction}\n\n{context}" if context.strip() else instruction
        prompt: Prompt = (Message("user", asked),) if self.chat else asked
        return (Example(prompt, output),), normalise(prompt)

    def _prompt_completion(self, row: dict[str, Any]) -> tuple[tuple[Example, ...], str]:
        if isinstance(row.get("prompt"), str):
            prompt: Prompt = _text(row, "prompt")
            return (Example(prompt, _text(row, "completion")),), normalise(prompt)
        prompt, completion = _messages(row, "prompt"), _messages(row, "completion")
        if len(completion) != 1 or completion[0].role != "assistant" or not completion[0].content.strip():
            raise RowInvalidError("completion must hold one assistant message that is not empty")
        if not self.chat:
            raise RowInvalidError("the base model has no chat template, so prompts that are messages cannot be rendered; use strings")
        return (Example(prompt, completion[0].content),), normalise(prompt)


FIELDS: dict[Format, set[str]] = {
    "messages": {"messages"},
    "instruction": {"instruction", "output"},
    "promptCompletion": {"prompt", "completion"},
}


def normalise(prompt: Prompt) -> str:
    """Return what makes two prompts the same question: compatibility forms, case and white space aside."""
    return _spaces(unicodedata.normalize("NFKC", "\n".join(_texts(prompt))).casefold())


def share_of(salt: str, group: bytes) -> float:
    """Return a number in [0, 1) that depends on salt and group alone, evenly spread."""
    return int.from_bytes(hashlib.sha256(salt.encode() + b"\0" + group).digest()[:8]) / 2**64


def _object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowInvalidError("not JSON") from error
    if not isinstance(row, dict):
        raise RowInvalidError("not a JSON object")
    return row


def _messages(row: dict[str, Any], field: str) -> tuple[Message, ...]:
    found = row.get(field)
    if not isinstance(found, list) or not found:
        raise RowInvalidError(f"{field} must be a list of messages that is not empty")
    return tuple(_message(item, f"{field}[{index}]") for index, item in enumerate(found))


def _message(item: object, where: str) -> Message:
    if not isinstance(item, dict) or item.get("role") not in ROLES:
        raise RowInvalidError(f"{where}.role must be one of {', '.join(ROLES)}")
    if not isinstance(item.get("content"), str):
        raise RowInvalidError(f"{where}.content must be a string")
    if item.get("tool_calls"):
        raise RowInvalidError(f"{where}.tool_calls cannot be trained on yet; write the call into content as the model should say it")
    return Message(item["role"], item["content"])


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise RowInvalidError(f"{field} must be a string that is not empty")
    return value


def _negative(row: dict[str, Any]) -> bool:
    label = row.get("label", True)
    if not isinstance(label, bool):
        raise RowInvalidError("label must be true or false")
    return not label


def _by_field(row: dict[str, Any], field: str) -> str:
    if row.get(field) is None:
        raise RowInvalidError(f"the field {field} of spec.dataset.holdout.groupBy is missing")
    return json.dumps(row[field], sort_keys=True)


def _order(row: dict[str, Any], field: str) -> float | str:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise RowInvalidError(f"the field {field} of spec.dataset.curriculum must be a number or a string")
    return value


def _texts(prompt: Prompt) -> list[str]:
    return [prompt] if isinstance(prompt, str) else [message.content for message in prompt]


def _spaces(text: str) -> str:
    return " ".join(text.split())


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
