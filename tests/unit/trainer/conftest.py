import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft_api import resolve
from graft_api.finetunejob import FineTuneJobSpec
from graft_api.run import RunManifest
from graft_api.schema import parse
from graft_trainer.layout import Mounts

Make = Callable[..., RunManifest]


@pytest.fixture
def mounts(tmp_path: Path) -> Mounts:
    (tmp_path / "work").mkdir()
    return Mounts(
        run=tmp_path / "run.json",
        work=tmp_path / "work",
        token=tmp_path / "token",
        ca=tmp_path / "ca.crt",
        credentials=tmp_path / "credentials",
        signing_key=tmp_path / "key.pem",
        termination_log=tmp_path / "termination",
        volumes=tmp_path / "pvc",
    )


@pytest.fixture
def manifest_of(tmp_path: Path) -> Make:
    """Build a run manifest; `dataset` and `training` replace fields, `rows` are written to the one source."""

    def make(
        rows: list[Any] | None = None, dataset: dict[str, Any] | None = None, training: dict[str, Any] | None = None, **spec: Any
    ) -> RunManifest:
        data = tmp_path / "data.jsonl"
        if rows is not None:
            data.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        value = {
            "domain": "letters",
            "baseModel": {"uri": (tmp_path / "model").as_uri()},
            "training": training or {},
            "dataset": {"sources": [{"uri": data.as_uri()}], "minExamples": 1} | (dataset or {}),
            "evaluation": {"suites": [{"name": "s", "scorer": {"exact": {}}}]},
            "output": {"uri": (tmp_path / "out").as_uri()},
            "signing": {"secretRef": {"name": "signing-key"}},
        } | spec
        resolved = resolve.resolve(parse(FineTuneJobSpec, value))
        return parse(
            RunManifest,
            {
                "job": {"namespace": "default", "name": "job", "uid": "u1"},
                "specHash": resolve.spec_hash(resolved),
                "runUri": resolve.run_uri(resolved, "default", "job"),
                "spec": resolved.to_json(),
            },
        )

    return make
