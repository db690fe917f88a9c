"""Whether what a collector reads is built on what was there before: one row a history."""

import pytest

from graft_api.collect import CollectorReport
from graft_api.schema import parse
from graft_api.shadowtest import KeptCommit
from graft_operator.shadowtest.extending import changed, kept

COMPARISON = {"contrasts": [{"name": "production", "pairs": 0, "clusters": 0, "metrics": []}]}


def hex_of(letter):
    return letter * 64


def report(commit, letter="d", boot="one", lineage=None, broken=(), compared=True):
    body = {"boot": boot, "sequence": 1, "mode": "Compare", "commit": commit, "lineage": lineage or {}}
    body |= {"commitDigest": hex_of(letter)} if letter else {}
    body |= {"comparison": COMPARISON | {"broken": list(broken)}} if compared else {}
    return parse(CollectorReport, body)


KEPT = KeptCommit(boot="one", commit=41, digest=hex_of("d"))


@pytest.mark.parametrize(
    ("later", "words"),
    [
        pytest.param(report(41), None, id="the same"),
        pytest.param(report(42, "e"), None, id="one more of the same collector"),
        pytest.param(report(41, "e"), "commit 41 is another one than it was", id="another one of the same number"),
        pytest.param(report(40), "commit 41 was there, and now the last one is 40", id="fewer"),
        pytest.param(report(42, None), "the digests of its commits are gone, that of commit 41 among them", id="no digest any more"),
        pytest.param(report(43, "f", "two", {"41": hex_of("d"), "42": hex_of("e")}), None, id="another collector found it"),
        pytest.param(
            report(43, "f", "two", {"41": hex_of("c"), "42": hex_of("e")}),
            "commit 41 is another one than it was",
            id="another collector found another one",
        ),
        pytest.param(
            report(43, "f", "two", {"30": hex_of("a"), "40": hex_of("e")}),
            "commit 41 was there, and the collector that began since did not find it",
            id="another collector began before it",
        ),
        pytest.param(
            report(43, "f", "two"),
            "commit 41 was there, and the collector that began since did not find it",
            id="another collector began with nothing",
        ),
        pytest.param(report(143, "f", "two", {"90": hex_of("a"), "91": hex_of("b")}), None, id="too long ago to be known"),
        pytest.param(report(40, broken=["the store cannot be read"]), None, id="what is broken speaks for itself"),
        pytest.param(report(0, None, "two", compared=False), None, id="nothing was read yet"),
    ],
)
def test_what_comes_later_is_held_against_what_was_kept(later, words):
    assert changed(KEPT, later) == words


def test_without_anything_kept_nothing_was_changed():
    assert changed(None, report(1, None)) is None


@pytest.mark.parametrize("unsure", [report(41, None), report(41, broken=["x"]), report(41, compared=False)])
def test_what_is_not_sure_is_not_kept(unsure):
    assert kept(unsure) is None


def test_what_is_sure_is_kept():
    assert kept(report(41)) == KEPT
