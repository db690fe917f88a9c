"""Which patterns of an adapter_config.json are matched, and that what is matched takes no time."""

import re
import time

import pytest

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.patterns import MODULE_LENGTH, check_pattern

TAKEN = {
    "a name": "q_proj",
    "a name with dots": "model.layers.0.self_attn.q_proj",
    "digits and a class": r"layers\.\d+\.self_attn\.[qv]_proj",
    "alternatives": r".*\.(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    "a range of layers": r"model\.layers\.(1[0-9]|2[0-9])\..*(q_proj|k_proj|v_proj|o_proj)",
    "an optional beginning": r"(.*\.)?layers\.\d{1,2}\.mlp\.(?:up|down)_proj$",
}


@pytest.mark.parametrize("pattern", TAKEN.values(), ids=TAKEN)
def test_what_people_write_is_taken(pattern: str) -> None:
    check_pattern("here", pattern)


REFUSED = {
    "a repeated repetition": "(a+)+$",
    "a repeated wildcard": "(.*)*x",
    "repeated alternatives": "(a|a)*b",
    "a counted group": "(a+){40}b",
    "many optional ones": "a?" * 40 + "a" * 40,
    "many alternatives in a row": "(a|a)" * 40,
    "many wildcards": ".*" * 6 + "x",
    "optional groups in a row": "((a?)?)?" * 12,
    "look-around": "(?!.*visual).*",
    "a back reference": r"(a)\1",
    "too long": "a" * 257,
}


@pytest.mark.parametrize("pattern", REFUSED.values(), ids=REFUSED)
def test_what_could_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(VersionRefusedError) as refused:
        check_pattern("here", pattern)
    assert refused.value.reason is LoadFailure.UNSUPPORTED_ADAPTER


@pytest.mark.parametrize("pattern", ["[", "(a", "a{2}{3}", "*"])
def test_what_is_no_pattern_is_another_refusal(pattern: str) -> None:
    with pytest.raises(VersionRefusedError) as refused:
        check_pattern("here", pattern)
    assert refused.value.reason is LoadFailure.INVALID_ARTIFACT


def test_the_worst_that_is_taken_ends_soon() -> None:
    worst = ".*.*.*(b|b|b|b|b|b|b|b|b|b|b|b|b|b|b|c)x"
    check_pattern("here", worst)
    began = time.process_time()
    assert re.match(rf"(.*\.)?({worst})$", ".b" * (MODULE_LENGTH // 2)) is None
    assert time.process_time() - began < 1.5
