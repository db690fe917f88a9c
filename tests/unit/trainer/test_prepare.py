import json
from pathlib import Path
from typing import Any

import pytest

from graft_api.finetunejob import BaseModelSource
from graft_trainer.errors import BadInputError
from graft_trainer.fetch import BaseModel, fetch
from graft_trainer.layout import Mounts, WorkFolder
from graft_trainer.lock import check_lock
from graft_trainer.prepare import prepare
from graft_trainer.split import HOLDOUT, TRAIN, VALIDATION
from graft_trainer.store import FileStore, open_store


def pairs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} | more for i in range(count)]


def base_model(path: Path) -> BaseModel:
    """Write a folder that passes for a model; return it as `fetch` does."""
    path.mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (path / name).exists() or (path / name).write_text("{}")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    return fetch(BaseModelSource(uri=path.as_uri()), Mounts())


def prepared(manifest: Any, mounts: Mounts) -> Any:
    base = base_model(mounts.work.parent / "model")
    return prepare(manifest, base, open_store(manifest.run_uri, mounts.credentials), mounts)


def lines(mounts: Mounts, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (WorkFolder(mounts.work).data / name).read_text().splitlines()]


def test_the_three_sets_share_no_row_and_lose_none(manifest_of: Any, mounts: Mounts) -> None:
    lock = prepared(manifest_of(pairs(1000)), mounts)

    sets = [{row["prompt"] for row in lines(mounts, name)} for name in (TRAIN, VALIDATION, HOLDOUT)]
    assert len(set.union(*sets)) == sum(map(len, sets)) == 1000
    assert [lock.summary.train, lock.summary.validation, lock.summary.holdout] == [len(s) for s in sets]
    assert lock.summary.holdout == pytest.approx(100, abs=30)


def test_a_row_stays_on_its_side_from_job_to_job(manifest_of: Any, mounts: Mounts, tmp_path: Path) -> None:
    prepared(manifest_of(pairs(300)), mounts)
    before = {row["prompt"] for row in lines(mounts, HOLDOUT)}

    prepared(manifest_of(pairs(600), output={"uri": (tmp_path / "other").as_uri()}), mounts)

    after = {row["prompt"] for row in lines(mounts, HOLDOUT)}
    assert before <= after
    assert not before & {row["prompt"] for row in lines(mounts, TRAIN)}


def test_negatives_count_and_are_never_imitated(manifest_of: Any, mounts: Mounts) -> None:
    rows = pairs(100) + [row | {"completion": "wrong", "label": False} for row in pairs(40)]

    lock = prepared(manifest_of(rows, {"negatives": {"minFraction": "0.2"}}), mounts)

    assert lock.summary.negatives == 40
    assert all(row["completion"] != "wrong" for name in (TRAIN, VALIDATION, HOLDOUT) for row in lines(mounts, name))


def test_duplicates_are_dropped(manifest_of: Any, mounts: Mounts) -> None:
    assert prepared(manifest_of(pairs(50) + pairs(20)), mounts).summary.rejected == 20


def test_duplicates_can_be_kept(manifest_of: Any, mounts: Mounts) -> None:
    summary = prepared(manifest_of(pairs(50) + pairs(20), {"gates": {"duplicates": "Keep"}}), mounts).summary

    assert summary.train + summary.validation + summary.holdout == 70


def test_what_the_given_holdout_asks_is_not_trained_on(manifest_of: Any, mounts: Mounts, tmp_path: Path) -> None:
    holdout = tmp_path / "holdout.jsonl"
    holdout.write_text("".join(json.dumps(row) + "\n" for row in pairs(10)))

    summary = prepared(manifest_of(pairs(100), {"holdout": {"uri": holdout.as_uri()}}), mounts).summary

    assert (summary.holdout, summary.rejected) == (10, 10)
    assert summary.train + summary.validation == 90


def test_broken_rows_may_be_dropped_up_to_a_share(manifest_of: Any, mounts: Mounts) -> None:
    gates = {"gates": {"invalidRows": {"maxFraction": "0.05"}}}

    assert prepared(manifest_of([*pairs(97), "{", "{", "{"], gates), mounts).summary.rejected == 3


def test_weights_make_the_largest_mixture_with_these_shares(manifest_of: Any, mounts: Mounts, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"other {i}", "completion": "x"}) + "\n" for i in range(100)))
    manifest = manifest_of(pairs(400))
    sources = [{"uri": manifest.spec.dataset.sources[0].uri, "weight": "0.5"}, {"uri": other.as_uri(), "weight": "0.5"}]
    manifest = manifest_of(None, {"sources": sources})

    prepared(manifest, mounts)
    first = lines(mounts, TRAIN)
    prepared(manifest, mounts)

    ours = sum(row["prompt"].startswith("other") for row in first)
    assert ours == len(first) - ours > 70
    assert first == lines(mounts, TRAIN), "the seed decides the order"
    assert len({row["prompt"] for row in first}) == len(first)


def test_a_curriculum_orders_by_length(manifest_of: Any, mounts: Mounts) -> None:
    rows = [{"prompt": f"{i} " + "x" * ((i * 37) % 50), "completion": "y"} for i in range(100)]

    prepared(manifest_of(rows, {"curriculum": {"orderBy": "Length"}}), mounts)

    lengths = [len(row["prompt"]) + len(row["completion"]) for row in lines(mounts, TRAIN)]
    assert lengths == sorted(lengths)


def test_a_curriculum_orders_by_a_field(manifest_of: Any, mounts: Mounts) -> None:
    rows = [row | {"level": (i * 7) % 10} for i, row in enumerate(pairs(100))]

    prepared(manifest_of(rows, {"curriculum": {"orderBy": "Field", "field": "level"}}), mounts)

    levels = [(int(row["prompt"].split()[1]) * 7) % 10 for row in lines(mounts, TRAIN)]
    assert levels == sorted(levels)


BROKEN = [*pairs(3), {"prompt": "secret"}]


@pytest.mark.parametrize(
    ("rows", "dataset", "reason", "line", "words"),
    [
        (BROKEN, {}, "InvalidData", 4, r"sources\[0\].uri .* line 4: completion must be"),
        ([*pairs(3), "", "{"], {}, "InvalidData", 5, "not JSON"),
        ([*pairs(90), *["{"] * 10], {"gates": {"invalidRows": {"maxFraction": "0.05"}}}, "InvalidData", 91, "10 of the 100 rows"),
        (pairs(20), {"minExamples": 30}, "TooFewExamples", None, "minExamples is 30"),
        ([], {}, "TooFewExamples", None, "0 rows to train on"),
        (pairs(30), {"holdout": {"fraction": "0.00001"}}, "EmptyHoldout", None, "no row is held out"),
        (pairs(30), {"holdout": {"fraction": "0.2", "minExamples": 29}}, "EmptyHoldout", None, "minExamples is 29"),
        (pairs(30), {"negatives": {"minFraction": "0.1"}}, "TooFewExamples", None, "0.00% of the rows are negatives"),
        (pairs(30) + pairs(1), {"gates": {"duplicates": "Fail"}}, "InvalidData", None, "line 31 repeats an earlier row"),
        (pairs(3), {"curriculum": {"orderBy": "Field", "field": "level"}}, "InvalidData", 1, "level of spec.dataset.curriculum"),
        (
            [row | {"level": i if i % 2 else "x"} for i, row in enumerate(pairs(30))],
            {"curriculum": {"orderBy": "Field", "field": "level"}}, "InvalidData", None, "number in some rows and a string in others",
        ),
    ],
)  # fmt: skip
def test_data_that_must_change_stops_the_run(  # noqa: PLR0917
    manifest_of: Any, mounts: Mounts, rows: list[Any], dataset: dict[str, Any], reason: str, line: int | None, words: str
) -> None:
    with pytest.raises(BadInputError, match=words) as raised:
        prepared(manifest_of(rows, dataset), mounts)

    assert (raised.value.reason, raised.value.line) == (reason, line)
    assert "secret" not in raised.value.message


def test_a_contaminated_row_can_stop_the_run(manifest_of: Any, mounts: Mounts, tmp_path: Path) -> None:
    holdout = tmp_path / "holdout.jsonl"
    holdout.write_text(json.dumps({"prompt": "QUESTION  7", "completion": "x"}) + "\n")
    dataset = {"holdout": {"uri": holdout.as_uri()}, "gates": {"contamination": "Fail"}}

    with pytest.raises(BadInputError, match=r"line 8 asks what the hold-out"):
        prepared(manifest_of(pairs(20), dataset), mounts)


def test_a_wrong_digest_says_both(manifest_of: Any, mounts: Mounts, tmp_path: Path) -> None:
    source = {"uri": (tmp_path / "data.jsonl").as_uri(), "digest": "sha256:" + "0" * 64}

    with pytest.raises(BadInputError, match=r"has sha256:[0-9a-f]{64}, but sha256:0{64} is expected") as raised:
        prepared(manifest_of(pairs(20), {"sources": [source]}), mounts)

    assert raised.value.reason == "DigestMismatch"


def test_data_that_was_refused_locks_nothing(manifest_of: Any, mounts: Mounts) -> None:
    with pytest.raises(BadInputError):
        prepared(manifest_of(BROKEN), mounts)

    assert prepared(manifest_of(pairs(30)), mounts).summary.train > 0


def test_other_data_does_not_pass_the_lock(manifest_of: Any, mounts: Mounts) -> None:
    prepared(manifest_of(pairs(30)), mounts)
    changed = manifest_of(pairs(31))

    with pytest.raises(BadInputError, match=r"is not what an earlier attempt of this run locked") as raised:
        prepared(changed, mounts)
    assert raised.value.reason == "DataChanged"
    with pytest.raises(BadInputError, match="locked"):
        check_lock(changed, mounts, open_store(changed.run_uri, mounts.credentials))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_another_base_model_does_not_pass_the_lock(manifest_of: Any, mounts: Mounts, file: str) -> None:
    manifest = manifest_of(pairs(30))
    prepared(manifest, mounts)
    check_lock(manifest, mounts, open_store(manifest.run_uri, mounts.credentials))
    (mounts.work.parent / "model" / file).write_text("[]")

    for check in (
        lambda: prepared(manifest, mounts),
        lambda: check_lock(manifest, mounts, open_store(manifest.run_uri, mounts.credentials)),
    ):
        with pytest.raises(BadInputError, match=r"spec\.baseModel\.uri: the base model file://.* is not what an earlier attempt") as raised:
            check()
        assert raised.value.reason == "DataChanged"


class Replacing(FileStore):
    """A store that replaces even where it is told not to."""

    def create(self, path: str, content: bytes) -> bool:
        self.write(path, content)
        return True


def test_a_store_that_replaces_anyway_keeps_the_first_lock(manifest_of: Any, mounts: Mounts) -> None:
    manifest = manifest_of(pairs(30))
    base, store = base_model(mounts.work.parent / "model"), Replacing(manifest.run_uri)
    prepare(manifest, base, store, mounts)
    locked = store.read("dataset.lock.json")

    with pytest.raises(BadInputError, match="is not what an earlier attempt of this run locked"):
        prepare(manifest_of(pairs(31)), base, store, mounts)
    assert store.read("dataset.lock.json") == locked
