"""The base model's folder: copied or mounted, and proven either way."""

from pathlib import Path

import pytest
from file_store import FileStore

from graft_runtime.digests import folder_digest, list_files
from graft_serving import fetch_base


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "sub/vocab.json").write_text("{}")
    return folder


def environment(uri: str, model: Path, digest: str = "") -> dict[str, str]:
    return {
        "GRAFT_BASE_URI": uri,
        "GRAFT_BASE_DIGEST": digest,
        "GRAFT_MODEL_DIRECTORY": str(model),
        "GRAFT_READ_ONLY_MODEL_DIGEST_FILE": str(model.parent / "base-digest"),
    }


def run(environ: dict[str, str]) -> int:
    return fetch_base.run(environ, lambda uri, _: FileStore(uri))


def test_a_base_of_this_machine_is_refused(source: Path, tmp_path: Path) -> None:
    assert fetch_base.run(environment(f"file://{source}", tmp_path / "model")) == fetch_base.BAD_INPUT
    assert not (tmp_path / "model").exists()


def test_the_digest_is_the_one_that_trainers_compute(source: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    assert run(environment(f"file://{source}", model)) == 0
    assert (model / ".graft-digest").read_text() == folder_digest(list_files(source))
    assert (model / "sub/vocab.json").read_text() == "{}"


def test_a_mounted_folder_is_proven_where_it_is(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def read_only(path: Path, text: str) -> int:
        if path.is_relative_to(source):
            raise OSError(30, "Read-only file system")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", read_only)
    assert run(environment("pvc://claim/folder", source)) == 0
    assert (source.parent / "base-digest").read_text() == folder_digest(list_files(source))


def test_a_container_that_is_started_again_copies_only_what_is_missing(source: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    run(environment(f"file://{source}", model))
    before = (model / "model.safetensors").stat().st_ino
    (model / "config.json").unlink()
    (model / "left.over").write_text("x")
    assert run(environment(f"file://{source}", model, folder_digest(list_files(source)))) == 0
    assert (model / "model.safetensors").stat().st_ino == before
    assert not (model / "left.over").exists()


def _without(source: Path, name: str) -> str:
    (source / name).unlink()
    return ""


WRONG = {
    "another digest": (lambda _: "sha256:" + "0" * 64, "spec.baseModel.digest"),
    "no configuration": (lambda source: _without(source, "config.json"), "no config.json"),
    "no safetensors": (lambda source: _without(source, "model.safetensors"), "no weights as safetensors"),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_what_the_user_must_change(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, change: object, said: str) -> None:
    digest = change(source)  # type: ignore[operator]
    assert run(environment(f"file://{source}", tmp_path / "model", digest)) == fetch_base.BAD_INPUT
    assert said in caplog.text
    assert not (tmp_path / "model/.graft-digest").exists()
