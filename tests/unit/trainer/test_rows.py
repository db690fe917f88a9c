import json
from typing import Any

import pytest

from graft_trainer.rows import Example, Message, RowInvalidError, RowReader, normalise, share_of


def read(row: Any, chat: bool = True, **options: Any) -> Any:
    line = row if isinstance(row, bytes) else json.dumps(row).encode()
    return RowReader("auto", chat, **options).detect(line).read(line)


USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
ASKED = (Message("user", "Q"),)


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"messages": [USER, ANSWER]}, Example(ASKED, "A")),
        ({"instruction": "Q", "output": "A"}, Example(ASKED, "A")),
        ({"instruction": "Q", "input": "", "output": "A"}, Example(ASKED, "A")),
        ({"instruction": "Q", "input": "I", "output": "A"}, Example((Message("user", "Q\n\nI"),), "A")),
        ({"prompt": "Q", "completion": "A"}, Example("Q", "A")),
        ({"prompt": [USER], "completion": [ANSWER]}, Example(ASKED, "A")),
    ],
)
def test_every_format_is_found_by_itself(row: dict[str, Any], example: Example) -> None:
    assert read(row).examples == (example,)


def test_an_instruction_is_plain_text_where_there_is_no_chat_template() -> None:
    assert read({"instruction": "Q", "output": "A"}, chat=False).examples == (Example("Q", "A"),)


def test_a_longer_conversation_is_one_example_for_each_answer_in_one_group() -> None:
    more = [USER, ANSWER, {"role": "user", "content": "Q2"}, {"role": "assistant", "content": "A2"}]

    row = read({"messages": more})

    assert [example.completion for example in row.examples] == ["A", "A2"]
    assert row.group == read({"messages": [USER, ANSWER]}).group


def test_a_negative_is_grouped_with_its_positive_and_is_not_its_duplicate() -> None:
    good, bad = read({"prompt": "Q", "completion": "A"}), read({"prompt": " q ", "completion": "A", "label": False})

    assert bad.negative
    assert good.group == bad.group
    assert good.identity != bad.identity


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"\xff\xfe", "not JSON"),
        ({"question": "Q"}, "no known format"),
        ({"messages": []}, "must be a list of messages that is not empty"),
        ({"messages": [USER]}, "an assistant message after a user message"),
        ({"messages": [ANSWER]}, "an assistant message after a user message"),
        ({"messages": [{"role": "bot", "content": "x"}, ANSWER]}, r"messages\[0\].role must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, ANSWER]}, r"messages\[0\].content must be a string"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "is empty"),
        ({"messages": [USER, ANSWER | {"tool_calls": [1]}]}, "tool_calls cannot be trained on"),
        ({"instruction": "Q", "output": ""}, "output must be a string that is not empty"),
        ({"instruction": "Q", "input": 3, "output": "A"}, "input must be a string"),
        ({"prompt": 1, "completion": "A"}, "prompt must be a list of messages"),
        ({"prompt": "Q", "completion": "A", "label": "no"}, "label must be true or false"),
    ],
)
def test_what_is_refused_is_said_without_content(row: Any, words: str) -> None:
    with pytest.raises(RowInvalidError, match=words):
        read(row)


def test_messages_need_a_chat_template() -> None:
    with pytest.raises(RowInvalidError, match="no chat template"):
        read({"messages": [USER, ANSWER]}, chat=False)


def test_group_by_takes_a_field() -> None:
    rows = [read({"prompt": text, "completion": "A", "customer": 7}, group_by="customer") for text in ("Q", "R")]

    assert rows[0].group == rows[1].group


def test_group_by_needs_its_field() -> None:
    with pytest.raises(RowInvalidError, match="customer"):
        read({"prompt": "Q", "completion": "A"}, group_by="customer")


def test_normalisation_sees_through_case_width_and_spaces() -> None:
    assert normalise("Ａllow\n  IF ") == normalise("allow if")


def test_shares_are_even_and_depend_on_the_salt() -> None:
    shares = [share_of("dsl", str(i).encode()) for i in range(2000)]

    assert sum(share < 0.1 for share in shares) == pytest.approx(200, abs=45)
    assert share_of("dsl", b"x") == share_of("dsl", b"x") != share_of("governance", b"x")
