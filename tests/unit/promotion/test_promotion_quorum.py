"""Whose word counts, and whether they are enough."""

from datetime import UTC, datetime, timedelta

import pytest

from graft_api.ledger import CountedApproval
from graft_api.promotion import ApprovalPolicy
from graft_api.schema import parse
from graft_operator.engine.clock import rfc3339
from graft_operator.promotion import quorum
from graft_operator.promotion.seen import Word

NOW = datetime(2026, 3, 2, tzinfo=UTC)
EVIDENCE, OTHER = "sha256:" + "e" * 64, "sha256:" + "f" * 64
ROBOT = "system:serviceaccount:ci:robot"


def policy(**body):
    return parse(ApprovalPolicy, {"users": ["alice", "bob", "carol"], "required": 2, "expiresAfter": "24h"} | body)


def word(who, approves=True, hours_ago=1.0, groups=(), evidence=EVIDENCE, uid=None):
    at = rfc3339(NOW - timedelta(hours=hours_ago))
    uid = uid or f"{who} {hours_ago} {approves}"
    return Word("name", uid, "adapter-c", "sha256:" + "c" * 64, evidence, approves, who, frozenset(groups), at)


def no(who, hours_ago=1.0, **more):
    return word(who, approves=False, hours_ago=hours_ago, **more)


BFT = {"quorum": "Bft", "required": None, "users": [f"user-{n}" for n in range(7)]}


def bft(**changes):
    body = {"expiresAfter": "24h"} | {name: value for name, value in (BFT | changes).items() if value is not None}
    return parse(ApprovalPolicy, body)


@pytest.mark.parametrize(
    ("policy", "words", "authors"),
    [
        pytest.param(policy(), [word("alice"), word("bob")], {"alice", "bob"}, id="both are listed"),
        pytest.param(policy(), [word("mallory"), word("bob")], {"bob"}, id="nobody else counts"),
        pytest.param(policy(), [word("alice"), word("alice", hours_ago=2)], {"alice"}, id="one person is one vote"),
        pytest.param(policy(groups=["leads"]), [word("dan", groups=["leads"])], {"dan"}, id="a member of a listed group"),
        pytest.param(policy(groups=["leads"]), [word("dan", groups=["users"])], set(), id="a member of another group"),
        pytest.param(policy(), [word("dan", groups=["leads"])], set(), id="groups that nobody listed"),
        pytest.param(
            policy(groups=["system:serviceaccounts:ci"]),
            [word(ROBOT, groups=["system:serviceaccounts:ci"])],
            set(),
            id="a service account by its group",
        ),
        pytest.param(policy(users=[ROBOT], required=1), [word(ROBOT)], {ROBOT}, id="a service account by its name"),
        pytest.param(policy(), [word("alice", hours_ago=24)], set(), id="an approval that is as old as it may be has expired"),
        pytest.param(policy(), [word("alice", hours_ago=23.9)], {"alice"}, id="one that is a little younger has not"),
        pytest.param(policy(), [word("alice", hours_ago=-0.1)], {"alice"}, id="the API server's clock is ahead of ours"),
        pytest.param(policy(), [word("alice", evidence=OTHER)], set(), id="an approval of other evidence"),
        pytest.param(policy(), [word("alice", evidence=None)], set(), id="an approval of no evidence"),
        pytest.param(policy(), [word("alice"), no("alice", hours_ago=2)], {"alice"}, id="who rejected and then approves"),
        pytest.param(policy(), [word("alice", hours_ago=2), no("alice")], set(), id="who approved and then rejects"),
        pytest.param(policy(), [word("alice"), no("alice")], set(), id="both in one second: the rejection is taken"),
        pytest.param(
            policy(),
            [word("alice", hours_ago=2), word("alice", evidence=OTHER)],
            set(),
            id="a newer approval of other evidence takes the place of the older one",
        ),
        pytest.param(bft(), [word("user-1", groups=["x"]), word("other")], {"user-1"}, id="Bft counts the listed users"),
    ],
)
def test_whose_approvals_count(policy, words, authors):
    counted = quorum.count(policy, words, NOW, evidence=EVIDENCE)
    assert {approval.author for approval in counted.approved} == authors
    assert quorum.count(policy, reversed(words), NOW, evidence=EVIDENCE) == counted, "in whatever order they are read"


@pytest.mark.parametrize(
    ("policy", "words", "reached"),
    [
        pytest.param(policy(), [], False, id="nobody said anything"),
        pytest.param(policy(), [word("alice")], False, id="one of two"),
        pytest.param(policy(), [word("alice"), word("bob")], True, id="two of two"),
        pytest.param(policy(required=1), [word("carol")], True, id="one of one"),
        pytest.param(policy(required=0), [], True, id="nobody is asked"),
        pytest.param(policy(required=0), [no("alice")], False, id="nobody is asked, but somebody who may says no"),
        pytest.param(policy(), [word("alice"), word("bob"), no("carol", hours_ago=9)], False, id="a veto, however old"),
        pytest.param(policy(), [word("alice"), word("bob"), no("mallory")], True, id="a no of somebody who may not"),
        pytest.param(policy(veto=False), [word("alice"), word("bob"), no("carol", hours_ago=9)], True, id="without veto: outvoted"),
        pytest.param(policy(veto=False), [word("alice", hours_ago=3), word("bob", hours_ago=2), no("carol")], False, id="not answered"),
        pytest.param(
            policy(veto=False), [word("alice", hours_ago=3), word("bob"), no("carol")], False, id="in the same second: not answered"
        ),
        pytest.param(policy(veto=False), [no("alice"), no("bob"), word("carol")], False, id="as many against as the quorum"),
    ],
)
def test_whether_the_quorum_is_reached(policy, words, reached):
    assert quorum.count(policy, words, NOW, evidence=EVIDENCE).reached is reached


@pytest.mark.parametrize(("users", "needed"), [(4, 3), (5, 3), (6, 3), (7, 5), (9, 5), (10, 7), (64, 43)], ids=lambda value: f"{value}")
def test_bft_needs_two_thirds_of_those_who_are_listed(users, needed):
    names = [f"user-{n}" for n in range(users)]
    asked = bft(users=names)
    said = [word(name, hours_ago=2 + n / 100) for n, name in enumerate(names)]
    assert quorum.count(asked, said, NOW, evidence=EVIDENCE).needed == needed
    assert quorum.count(asked, said[:needed], NOW, evidence=EVIDENCE).reached
    assert not quorum.count(asked, said[: needed - 1], NOW, evidence=EVIDENCE).reached
    bought = (users - 1) // 3
    assert needed - bought > bought, "in every quorum the honest are more"
    assert needed <= users - bought, "they need none of the others"


@pytest.mark.parametrize(
    ("policy", "words", "by"),
    [
        pytest.param(policy(), [no("bob", 2), no("alice", 3)], "alice", id="with a veto the first"),
        pytest.param(policy(veto=False), [no("bob", 2)], None, id="without, one of two is not enough"),
        pytest.param(policy(veto=False), [no("bob", 2), no("alice", 3)], "bob", id="without, the one that makes two"),
        pytest.param(policy(veto=False, required=0), [no("bob", 2)], "bob", id="where nobody is asked, one is enough"),
        pytest.param(policy(veto=False), [no("bob", 2), no("bob", 3)], None, id="one person is one vote"),
        pytest.param(bft(veto=False), [no(f"user-{n}", 2 - n / 10) for n in range(4)], None, id="Bft without veto: four of five"),
        pytest.param(bft(veto=False), [no(f"user-{n}", 2 - n / 10) for n in range(5)], "user-4", id="Bft without veto: five of five"),
    ],
)
def test_which_rejection_decides(policy, words, by):
    vetoed = quorum.count(policy, words, NOW, evidence=EVIDENCE).vetoed
    assert (vetoed.username if vetoed else None) == by


def test_rejections_that_a_newer_quorum_overruled_count_no_more():
    words = [no("alice", 3), word("bob", hours_ago=1), word("carol", hours_ago=1)]
    assert quorum.count(policy(), words, NOW, evidence=EVIDENCE).vetoed
    assert quorum.count(policy(), words, NOW, evidence=EVIDENCE, overruled_before=NOW - timedelta(hours=2)).reached
    assert quorum.count(policy(), words, NOW, evidence=EVIDENCE, overruled_before=NOW - timedelta(hours=3)).vetoed, "the same second counts"


def test_what_was_counted_in_a_quorum_does_not_expire_but_may_be_withdrawn():
    old = [word("alice", hours_ago=30, uid="a"), word("bob", hours_ago=30, uid="b")]
    counted = [CountedApproval(name="n", uid=uid, author="x", at=old[0].created_at) for uid in ("a", "b")]
    assert not quorum.count(policy(), old, NOW, evidence=EVIDENCE).reached
    assert quorum.count(policy(), old, NOW, evidence=EVIDENCE, counted=counted).reached
    assert not quorum.count(policy(), old[:1], NOW, evidence=EVIDENCE, counted=counted).reached


def test_no_more_approvals_are_kept_than_the_ledger_holds():
    crowd = policy(users=[], groups=["leads"], required=64)
    said = [word(f"u{n}", hours_ago=3 - n / 100, groups=["leads"]) for n in range(100)]
    counted = quorum.count(crowd, said, NOW, evidence=EVIDENCE)
    assert counted.reached
    assert [approval.author for approval in counted.approved] == [f"u{n}" for n in range(36, 100)], "the newest"
