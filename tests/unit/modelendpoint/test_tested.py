"""How often an artifact was tested: counted once a test, whatever becomes of its object."""

import pytest

from graft_api.ledger import Ledger, LedgerDomain, TestedDigest
from graft_api.modelendpoint import ModelEndpointStatus
from graft_api.schema import Invalid, parse
from graft_api.shadowtest import ShadowTestSpec, ShadowTestStatus
from graft_operator.modelendpoint import ledgers, tested
from graft_operator.modelendpoint.children import Parent
from graft_operator.modelendpoint.observed import Observed
from graft_operator.shadowtest.turns import TestView

PARENT = Parent("team", "prod", "prod-uid")
METRIC = {"name": "errors", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}
SPEC = parse(ShadowTestSpec, {"adapterRef": {"name": "new"}, "metrics": [{"metric": METRIC, "scorer": {"cel": {}}}]})
EMPTY = LedgerDomain(name="dsl", salt="s")


def digest(letter):
    return f"sha256:{letter * 64}"


def a_test(name="t1", phase="Starting", letter="c", endpoint="prod-uid", domain="dsl", deleting=False, **status):
    resolved = {
        "endpoint": "prod",
        "endpointUid": endpoint,
        "domain": domain,
        "incumbent": {"version": "base"},
        "candidate": {"version": "dsl-1", "adapter": "new", "digest": digest(letter)},
        "store": "s3://m/t",
        "seed": 1,
        "maxDuration": "2h",
        "endpointSpecDigest": digest("0"),
    }
    known = parse(ShadowTestStatus, {"phase": phase, "resolved": resolved} | status)
    return TestView(name, f"uid of {name}", f"2026-01-01T00:00:{len(name):02}Z", SPEC, known, deleting)


def seen(domain, *tests):
    return tested.count(domain, Observed(PARENT, 1, Invalid(["not read"]), ModelEndpointStatus(), tests=tests))


def counts(domain):
    return {entry.digest[7]: entry.count for entry in domain.tests}


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        pytest.param(a_test(phase="Pending"), {}, id="something stands against it"),
        pytest.param(a_test(phase="Queued"), {}, id="it waits"),
        pytest.param(a_test(), {"c": 1}, id="it begins"),
        pytest.param(a_test(phase="Running"), {"c": 1}, id="it runs, and nobody saw it begin"),
        pytest.param(a_test(phase="Passed"), {}, id="it ended under an operator that did not count"),
        pytest.param(a_test(deleting=True), {}, id="it is being deleted"),
        pytest.param(a_test(endpoint="another"), {}, id="of another endpoint of the name"),
        pytest.param(a_test(domain="governance"), {}, id="of another domain"),
        pytest.param(a_test(attempt=5), {"c": 5}, id="it has its number, and the ledger was lost"),
    ],
)
def test_which_tests_count(test, expected):
    after = seen(EMPTY, test)
    assert counts(after) == expected
    assert seen(after, test) == after, "once"
    assert tested.is_counted(after, test) == bool(expected)


def test_a_test_that_is_seen_again_counts_nothing_and_a_deleted_one_stays():
    domain = EMPTY
    for number in range(1, 21):
        test = a_test(f"t{number}")
        domain = seen(domain, test)
        for phase in ("Starting", "Queued", "Starting", "Running", "Failed"):
            domain = seen(domain, a_test(f"t{number}", phase))
        (entry,) = domain.tests
        assert (entry.count, entry.attempt(test.uid), entry.test, entry.outcome) == (number, number, test.name, "Failed")
    assert [entry.attempt(uid) for uid in entry.uids] == [17, 18, 19, 20]
    assert entry.attempt("uid of t1") is None


def test_two_that_have_begun_at_once_count_once_each_in_whatever_order_they_are_seen():
    one, two = a_test("t1"), a_test("t10")
    after = seen(EMPTY, two, one)
    assert counts(after) == {"c": 2}
    assert seen(seen(after, one, two), two) == after
    assert [after.tests[0].attempt(test.uid) for test in (one, two)] == [1, 2]


def test_how_the_last_one_ended_is_of_the_last_one():
    running = seen(EMPTY, a_test("t1"), a_test("t10"))
    assert seen(running, a_test("t1", "Passed")).tests[0].outcome is None, "another began since"
    ended = seen(running, a_test("t10", "Inconclusive"))
    assert ended.tests[0].outcome == "Inconclusive"
    assert seen(ended, a_test("t100")).tests[0].outcome is None


def test_a_long_forgotten_uid_counts_nothing_where_the_test_has_its_number():
    domain = EMPTY.model_copy(update={"tests": [TestedDigest(digest=digest("c"), count=9, test="t9", uids=["u9"])]})
    old = a_test("t1", "Running", attempt=2)
    assert seen(domain, old) == domain
    assert tested.is_counted(domain, old)
    assert not tested.is_counted(domain, a_test("t1", "Running"))
    assert not tested.is_counted(None, old)


def test_the_artifact_that_was_tested_longest_ago_is_forgotten_first():
    hexadecimal = [f"{number:064x}" for number in range(70)]
    entries = [TestedDigest(digest=f"sha256:{one}", count=1, test="t") for one in hexadecimal[:64]]
    domain = seen(EMPTY.model_copy(update={"tests": entries}), a_test("again", letter="0"))
    assert (len(domain.tests), domain.tests[-1].count, domain.tests[-1].test) == (64, 2, "again"), "the first is tested again"
    domain = seen(domain, a_test("new", letter="f"))
    assert [entry.digest for entry in domain.tests] == [*(f"sha256:{one}" for one in hexadecimal[2:64]), digest("0"), digest("f")]


def test_a_ledger_from_before_tests_were_counted_can_be_read():
    assert parse(Ledger, {"endpoint": "prod", "domains": [{"name": "dsl", "salt": "s"}]}).domains == [EMPTY]


def test_a_ledger_full_of_tests_fits_into_a_config_map_and_keeps_the_newest():
    entries = [TestedDigest(digest=f"sha256:{one:064x}", count=2**40, test="t" * 253, uids=["u" * 64] * 4) for one in range(64)]
    full = Ledger(endpoint="prod", domains=[LedgerDomain(name=f"d{one}", salt="s", tests=entries) for one in range(64)])
    kept = ledgers.bounded(full)
    assert not ledgers.fits(full)
    assert ledgers.fits(kept)
    (size,) = {len(domain.tests) for domain in kept.domains}
    assert kept.domains[0].tests == entries[-size:]
    assert not ledgers.fits(full.model_copy(update={"domains": [tested.shortened(domain, size + 1) for domain in full.domains]}))
