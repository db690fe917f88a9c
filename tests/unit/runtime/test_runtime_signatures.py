import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from model_signing import signing

from graft_runtime.signatures import signed_bytes, verify


@pytest.fixture
def signed(tmp_path):
    """A signed folder with a file that git ignores, and the public key."""
    key, folder = ec.generate_private_key(ec.SECP256R1()), tmp_path / "folder"
    folder.mkdir()
    for name in ("weights", ".gitignore"):
        (folder / name).write_text("as it was signed")
    (tmp_path / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key").set_hashing_config(signed_bytes(folder / "sig"))
    config.sign(folder, folder / "sig")
    return folder, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_folder_as_it_was_signed_verifies(signed):
    folder, public = signed
    verify(folder, folder / "sig", public)


@pytest.mark.parametrize("name", ["weights", ".gitignore", "one more"])
def test_nothing_in_it_can_change(signed, name):
    folder, public = signed
    (folder / name).write_text("something else")
    with pytest.raises(ValueError, match="mismatch"):
        verify(folder, folder / "sig", public)


def test_another_key_does_not_verify(signed):
    folder, _ = signed
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="ignature"):
        verify(folder, folder / "sig", other)
