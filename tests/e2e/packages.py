"""Adapters that are not what they seem: made from a good one, and signed again where whoever made them would have the key."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from safetensors.torch import load_file, save_file

from graft_runtime.digests import list_files
from graft_trainer.signature import sign

WEIGHTS, CONFIG, MANIFEST, SIGNATURE = "adapter_model.safetensors", "adapter_config.json", "manifest.json", "model.sig"


class Signer:
    """A key pair."""

    def __init__(self, place: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self.path = place
        self.path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        self.public = public_pem(key)


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half of a key, as an endpoint trusts it."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


class Package:
    """One artifact folder, to be changed and finished."""

    def __init__(self, good: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(good, target)
        self.path = target

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256((self.path / MANIFEST).read_bytes()).hexdigest()}"

    @property
    def size(self) -> int:
        return sum(file.stat().st_size for file in self.path.iterdir())

    def change_weights(self, change) -> "Package":
        weights = load_file(self.path / WEIGHTS)
        save_file(change(weights), self.path / WEIGHTS, metadata={"format": "pt"})
        (self.path / WEIGHTS).chmod(0o644)
        return self

    def change_json(self, name: str, **values: object) -> "Package":
        document = json.loads((self.path / name).read_text())
        (self.path / name).write_text(json.dumps(document | values))
        return self

    def finish(self, signer: Signer, **manifest: object) -> "Package":
        """List the files as they are now, and sign."""
        listed = [file.to_json() for file in list_files(self.path) if file.path not in {MANIFEST, SIGNATURE}]
        self.change_json(MANIFEST, **({"files": listed} | manifest))
        sign(self.path, signer.path)
        return self


def no_effect(weights):
    """LoRA's update is B x A: with B = 0 the adapter is the base model."""
    return {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in weights.items()}


def half_the_modules(weights):
    """Without the update of every second module, in effect."""
    modules = sorted({name.rpartition(".lora_")[0] for name in weights})
    dropped = set(modules[::2])
    return {
        name: torch.zeros_like(tensor) if "lora_B" in name and name.rpartition(".lora_")[0] in dropped else tensor
        for name, tensor in weights.items()
    }


def other_direction(weights):
    """The same size of update, another direction: a second adapter that is no worse to load."""
    return {name: -tensor if "lora_B" in name else tensor for name, tensor in weights.items()}
