from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from graft_trainer.errors import BadInputError
from graft_trainer.layout import Mounts
from graft_trainer.preflight import check_settings, preflight
from graft_trainer.records import Admission


def pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)  # type: ignore[no-any-return]


EC256, EC521 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1())


@pytest.fixture
def ready(manifest_of: Any, mounts: Mounts, tmp_path: Path) -> Any:
    """A run that preflight admits, until a test takes something away."""

    def write(**changes: Any) -> None:
        manifest = manifest_of([{"prompt": "a", "completion": "b"}], **changes)
        mounts.run.write_text(manifest.model_dump_json(by_alias=True, exclude_none=True))

    mounts.signing_key.write_bytes(pem(EC256))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    write()
    return write


def test_a_run_that_is_ready_is_admitted(ready: Any, mounts: Mounts) -> None:
    assert preflight(mounts) == Admission(attempt=1, conditional_writes=True)


def test_every_local_run_is_another_attempt(ready: Any, mounts: Mounts) -> None:
    assert [preflight(mounts).attempt for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "SigningKeyMissing"),
        (b"", "SigningKeyInvalid"),
        (b"hello", "SigningKeyInvalid"),
        (pem(EC521), "SigningKeyInvalid"),
        (pem(rsa.generate_private_key(65537, 2048)), "SigningKeyInvalid"),
        (pem(EC256, b"password"), "SigningKeyInvalid"),
        (EC256.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo), "SigningKeyInvalid"),
    ],
    ids=["absent", "empty", "no key", "P-521", "RSA", "encrypted", "public"],
)
def test_a_key_that_cannot_sign_is_named(ready: Any, mounts: Mounts, key: bytes | None, reason: str) -> None:
    mounts.signing_key.unlink()
    if key is not None:
        mounts.signing_key.write_bytes(key)

    with pytest.raises(BadInputError, match=r"key 'key.pem' of Secret 'signing-key'") as raised:
        preflight(mounts)
    assert raised.value.reason == reason


def test_a_missing_source_is_named(ready: Any, mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").unlink()

    with pytest.raises(BadInputError, match=r"spec\.dataset\.sources\[0\]\.uri: there is no file file:///") as raised:
        preflight(mounts)
    assert raised.value.reason == "SourceNotFound"


def test_a_missing_base_model_is_named(ready: Any, mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "model/config.json").unlink()

    with pytest.raises(BadInputError, match=r"spec\.baseModel\.uri") as raised:
        preflight(mounts)
    assert raised.value.reason == "BaseModelNotFound"


def test_a_claim_of_a_volume_is_a_mounted_folder(ready: Any, mounts: Mounts, tmp_path: Path) -> None:
    (tmp_path / "pvc/models/base").mkdir(parents=True)
    (tmp_path / "pvc/models/base/config.json").write_text("{}")
    ready(baseModel={"uri": "pvc://models/base"})

    assert preflight(mounts).attempt == 1


def test_half_a_pair_of_keys_is_refused(ready: Any, mounts: Mounts) -> None:
    mounts.credentials.mkdir()
    (mounts.credentials / "AWS_ACCESS_KEY_ID").write_text("me")
    ready(output={"uri": "s3://bucket/out"})

    with pytest.raises(BadInputError, match="has no key AWS_SECRET_ACCESS_KEY"):
        preflight(mounts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "full"}, r"spec\.method: full fine-tuning is not available"),
        (
            {"evaluation": {"suites": [{"name": "s", "scorer": {"regex": {"pattern": "("}}}]}},
            r"spec\.evaluation\.suites\[0\]\.scorer\.regex\.pattern",
        ),
    ],
)
def test_what_could_never_work_is_refused_at_once(manifest_of: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        check_settings(manifest_of([], **changes))


def test_preflight_and_publish_import_no_torch() -> None:
    import subprocess
    import sys

    program = "import sys, graft_trainer.preflight, graft_trainer.publish, graft_trainer.s3; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
