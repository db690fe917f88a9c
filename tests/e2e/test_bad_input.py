"""What only shows at run time: Stalled with the reason, no retry, nothing published. All cases run side by side."""

import json

import pytest


def broken_row(place):
    lines = (place.world / "data/rules.jsonl").read_text().splitlines()[:80]
    lines[16] = lines[16][:20]
    place.put_lines("data/broken.jsonl", lines)
    return {"dataset": {"sources": [{"uri": f"s3://{place.bucket}/data/broken.jsonl"}]}}


def empty_holdout(place):
    place.put_lines("data/empty.jsonl", [])
    return {"dataset": {"holdout": {"uri": f"s3://{place.bucket}/data/empty.jsonl"}}}


CASES = {
    "missing-bucket": (lambda _: {"output": {"uri": "s3://there-is-no-such-bucket/x"}}, "BucketNotFound", "there-is-no-such-bucket"),
    "broken-row": (broken_row, "InvalidData", "line 17"),
    "too-few": (lambda _: {"dataset": {"minExamples": 100000}}, "TooFewExamples", "100000"),
    "empty-holdout": (empty_holdout, "EmptyHoldout", "empty.jsonl"),
    "wrong-digest": (
        lambda place: {"baseModel": {"uri": f"s3://{place.bucket}/base", "digest": "sha256:" + "0" * 64}},
        "DigestMismatch",
        "sha256:0000",
    ),
    "no-signing-key": (lambda _: {"signing": {"secretRef": {"name": "nowhere"}}}, "SigningKeyMissing", "nowhere"),
    "unknown-setting": (lambda _: {"training": {"extraArgs": {"no_such_argument": "1"}}}, "InvalidSetting", "no_such_argument"),
    "unsupported": (lambda _: {"method": "full", "lora": None}, "Unsupported", "spec.method"),
}


@pytest.fixture
def jobs(place):
    for name, (change, _, _) in CASES.items():
        body = place.job(name, **change(place))
        if body["spec"]["lora"] is None:
            del body["spec"]["lora"]
        place.apply(body)
    return {name: place.ended(name) for name in CASES}


def test_run_time_input_errors_stall_with_their_reason(place, jobs):
    problems = []
    for name, (_, reason, word) in CASES.items():
        status = jobs[name]
        stalled = next(c for c in status["conditions"] if c["type"] == "Stalled")
        said = f"{status['failure']['message']} line {status['failure'].get('line')}"
        if (status["phase"], stalled["status"], stalled["reason"]) != ("Failed", "True", reason) or word not in said:
            problems.append(f"{name}: {json.dumps(status['failure'])}")
        if status.get("attempt", 0) > 1:
            problems.append(f"{name}: was tried {status['attempt']} times")
    assert not problems, "\n".join(problems)
    assert place.commits() == []
    assert not [key for key in place.objects("adapters/") if "/artifact/" in key]
