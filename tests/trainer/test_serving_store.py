"""What agents and `fetch-base` fetch, against a real S3 server."""

import threading
from pathlib import Path

import pytest
import s3world

from graft_api.fleet import LoadFailure
from graft_serving import fetch_base
from graft_serving.agent import store as stores
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.store import Store, copy, listed, open_store

MANY = 10**9


@pytest.fixture
def bucket(gateway: s3world.Gateway, request: pytest.FixtureRequest) -> str:
    return gateway.bucket(f"s-{abs(hash(request.node.name)) % 10**8}")


def put(gateway: s3world.Gateway, folder: Path, bucket: str, **files: bytes) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "put").write_bytes(content)
        gateway.client().fput_object(bucket, f"pre/fix/{name.replace('__', '/').replace('_dot_', '.')}", str(folder / "put"))


def opened(gateway: s3world.Gateway, bucket: str, tmp_path: Path, **changes: str) -> Store:
    return open_store(f"s3://{bucket}/pre/fix", gateway.credentials(tmp_path / "credentials", **changes))


def fetch(store: Store, target: Path) -> None:
    copy(store, listed(store, MANY), target, lambda _: None, threading.Event())


def test_large_objects_arrive_in_parts_and_whole(
    gateway: s3world.Gateway, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PART_BYTES", 100_000)
    content = bytes(range(256)) * 4000
    put(gateway, tmp_path / "in", bucket, weights=content, sub__small=b"hello", empty=b"")
    fetch(opened(gateway, bucket, tmp_path), tmp_path / "out")
    assert (tmp_path / "out/weights").read_bytes() == content
    assert (tmp_path / "out/sub/small").read_bytes() == b"hello"
    assert (tmp_path / "out/empty").read_bytes() == b""


def test_an_object_that_is_replaced_meanwhile_is_not_mixed_in(gateway: s3world.Gateway, bucket: str, tmp_path: Path) -> None:
    put(gateway, tmp_path / "in", bucket, weights=b"a" * 1000)
    store = opened(gateway, bucket, tmp_path)
    entries = listed(store, MANY)
    put(gateway, tmp_path / "in", bucket, weights=b"b" * 1000)
    with pytest.raises(VersionRefusedError) as refused:
        copy(store, entries, tmp_path / "out", lambda _: None, threading.Event())
    assert refused.value.reason is LoadFailure.STORE_UNAVAILABLE
    fetch(store, tmp_path / "again")


def test_more_than_was_announced_is_not_fetched(gateway: s3world.Gateway, bucket: str, tmp_path: Path) -> None:
    put(gateway, tmp_path / "in", bucket, weights=b"a" * 1000)
    with pytest.raises(VersionRefusedError, match="1000 bytes, more than the 999"):
        listed(opened(gateway, bucket, tmp_path), 999)


def reason(store: Store) -> LoadFailure:
    with pytest.raises(VersionRefusedError) as refused:
        listed(store, MANY)
    return refused.value.reason


def test_why_nothing_can_be_fetched(gateway: s3world.Gateway, bucket: str, tmp_path: Path) -> None:
    assert reason(opened(gateway, bucket, tmp_path)) is LoadFailure.NOT_FOUND
    assert reason(opened(gateway, "no-such-bucket", tmp_path)) is LoadFailure.NOT_FOUND
    assert reason(opened(gateway, bucket, tmp_path, AWS_SECRET_ACCESS_KEY="wrong")) is LoadFailure.CREDENTIALS_REFUSED
    assert reason(opened(gateway, bucket, tmp_path, AWS_ENDPOINT_URL="http://127.0.0.1:9")) is LoadFailure.STORE_UNAVAILABLE


def test_the_base_model_is_fetched_proven_and_kept(gateway: s3world.Gateway, bucket: str, tmp_path: Path) -> None:
    put(gateway, tmp_path / "in", bucket, config_dot_json=b"{}", model_dot_safetensors=b"w" * 1000, pickle_dot_bin=b"code")
    model = tmp_path / "model"
    environment = {
        "GRAFT_BASE_URI": f"s3://{bucket}/pre/fix",
        "GRAFT_MODEL_DIRECTORY": str(model),
        "GRAFT_CREDENTIALS_DIRECTORY": str(gateway.credentials(tmp_path / "credentials")),
    }
    assert fetch_base.run(environment) == 0
    digest = (model / ".graft-digest").read_text()
    assert sorted(path.name for path in model.iterdir()) == [".graft-digest", "config.json", "model.safetensors"]
    (model / "model.safetensors").write_bytes(b"x" * 1000)  # as long, and damaged
    assert fetch_base.run(environment | {"GRAFT_BASE_DIGEST": digest}) == 0
    assert (model / "model.safetensors").read_bytes() == b"w" * 1000, "fetched anew"
    assert fetch_base.run(environment | {"GRAFT_BASE_DIGEST": "sha256:" + "0" * 64}) == fetch_base.BAD_INPUT
    assert fetch_base.run(environment | {"GRAFT_BASE_URI": "s3://no-such-bucket/x"}) == fetch_base.BAD_INPUT
