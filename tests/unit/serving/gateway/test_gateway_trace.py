"""Ids that pass through, and those that are made."""

from __future__ import annotations

from random import Random

import pytest

from graft_serving.gateway.trace import continue_trace, request_id

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("sampled", "flags"), [("01", "01"), ("00", "00"), ("03", "01")])
def test_a_childs_span_keeps_trace_and_sampling(sampled: str, flags: str) -> None:
    trace = continue_trace(f"00-{TRACE}-{SPAN}-{sampled}", "a=1,b=2", Random(1))  # noqa: S311
    version, trace_id, span, told = trace.parent.split("-")
    assert (version, trace_id, told) == ("00", TRACE, flags)
    assert span != SPAN
    assert trace.state == "a=1,b=2"


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-x",
        f"00-{TRACE.upper()}-{SPAN}-01",
    ],
)
def test_what_is_no_trace_begins_one(parent: str | None) -> None:
    trace = continue_trace(parent, "a=1", Random(1))  # noqa: S311
    assert trace.trace_id != TRACE
    assert trace.parent.endswith("-00")
    assert trace.state is None


def test_a_later_version_is_read_as_this_one() -> None:
    assert continue_trace(f"01-{TRACE}-{SPAN}-01-more", None, Random(1)).trace_id == TRACE  # noqa: S311


@pytest.mark.parametrize("offered", ["a", "req_1.2:3", "x" * 128])
def test_a_clients_id_is_kept(offered: str) -> None:
    assert request_id(offered, Random(1)) == offered  # noqa: S311


@pytest.mark.parametrize("offered", [None, "", "a b", "a\r\nb: c", "x" * 129, "é"])
def test_or_made(offered: str | None) -> None:
    assert len(request_id(offered, Random(1))) == 32  # noqa: S311
