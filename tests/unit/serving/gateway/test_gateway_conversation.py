"""The same conversation is on the same arm, in every replica and for ever; conversations spread as the weights say."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft_api.routes import Arm
from graft_serving.gateway.conversation import arm_index, cumulative_weights, named_key, opening_key, salt_key

QUICK = settings(max_examples=40, deadline=None)  # how fast says nothing on a shared machine


def test_keys_never_change() -> None:
    # Golden: a changed key would move every conversation to another arm on upgrade.
    assert named_key("team-a", "c1").hex() == GOLDEN_NAMED
    assert opening_key("team-a", b'["s","u"]').hex() == GOLDEN_OPENING
    keys = [hashlib.sha256(str(n).encode()).digest()[:16] for n in range(12)]
    assert [arm_index(salt_key("salt"), key, (9000, 10_000)) for key in keys] == GOLDEN_ARMS
    assert [arm_index(salt_key("other"), key, (5000, 10_000)) for key in keys] == GOLDEN_OTHER


def test_two_owners_may_use_one_name() -> None:
    assert named_key("a", "c1") != named_key("b", "c1")
    assert named_key("a", "bc") != named_key("ab", "c")
    assert named_key("a", "c") != opening_key("a", b"c")


@pytest.mark.parametrize("weights", [(1,), (5000, 5000), (500, 9500), (1, 2, 3, 4)])
def test_conversations_spread_as_the_weights_say(weights: tuple[int, ...]) -> None:
    cumulative = cumulative_weights([Arm(weight=weight) for weight in weights])
    number = 20_000
    counts = [0] * len(weights)
    for n in range(number):
        counts[arm_index(salt_key("salt"), named_key("", str(n)), cumulative)] += 1
    for count, weight in zip(counts, weights, strict=True):
        share = weight / sum(weights)
        assert abs(count - number * share) <= 4 * (number * share * (1 - share)) ** 0.5


@QUICK
@given(st.text(), st.binary(min_size=16, max_size=16), st.integers(1, 9999), st.integers(1, 9999))
def test_a_wider_first_arm_takes_conversations_and_gives_none_away(salt: str, key: bytes, one: int, two: int) -> None:
    narrow, wide = min(one, two), max(one, two)
    if arm_index(salt_key(salt), key, (narrow, 10_000)) == 0:
        assert arm_index(salt_key(salt), key, (wide, 10_000)) == 0


def test_another_salt_is_another_draw() -> None:
    one, two, names = salt_key("one"), salt_key("two"), [named_key("", str(n)) for n in range(4000)]
    arms = [(arm_index(one, name, (1, 2)), arm_index(two, name, (1, 2))) for name in names]
    both = sum(1 for first, second in arms if first == second)
    assert 1850 < both < 2150


GOLDEN_NAMED = "556bef00f2d06722c2b507d197e4cec6"
GOLDEN_OPENING = "86ebcd08c57ddf8c1698942b5e3ffe43"
GOLDEN_ARMS = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]
GOLDEN_OTHER = [0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1]
