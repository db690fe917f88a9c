"""Adapters as the trainer publishes them, and as somebody else might: real tensors, real signatures."""

import hashlib
import json
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from model_signing import hashing, signing

from graft_api.dataplane import version_name
from graft_api.routes import Arm, EndpointIdentity, Route, Routes, Version

BASE = "sha256:" + "b" * 64
MODULES = ("q_proj", "v_proj")
PROBES = {
    "version": 1,
    "precision": "bfloat16",
    "probes": [
        {
            "promptTokenIds": [number, 2],
            "continuationTokenIds": [10, 11, 12, 13],
            "baseLogprobs": [-2.0, -1.0, -3.0, -0.5],
            "adapterLogprobs": [-1.0, -0.2, -1.5, -0.4],
        }
        for number in range(4)
    ],
}


class Signer:
    """A signing key."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.public = self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, folder: Path) -> None:
        signature = folder / "model.sig"
        signature.unlink(missing_ok=True)
        everything = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            file.flush()
            signing.Config().use_elliptic_key_signer(private_key=file.name).set_hashing_config(everything).sign(folder, signature)


def tensors(modules: Sequence[str] = MODULES, *, rank: int = 4, zero_b: bool = False) -> dict[str, tuple[list[int], bytes]]:
    """Return A and B of each module in two layers, as float32."""
    made = {}
    for layer in range(2):
        for module in modules:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            made[f"{name}.lora_A.weight"] = ([rank, 8], struct.pack(f"<{rank * 8}f", *[0.5] * (rank * 8)))
            made[f"{name}.lora_B.weight"] = ([8, rank], struct.pack(f"<{rank * 8}f", *[0.0 if zero_b else 0.25] * (rank * 8)))
    return made


def safetensors(content: dict[str, tuple[list[int], bytes]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, data) in content.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in content.values())


class Package:
    """A folder that is an artifact once it is sealed."""

    def __init__(self, folder: Path, signer: Signer, domain: str = "dsl") -> None:
        self.folder, self.signer, self.domain = folder, signer, domain
        folder.mkdir(parents=True)
        self.config: dict[str, Any] = {
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none", "target_modules": list(MODULES), "init_lora_weights": True,
            "modules_to_save": None, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "base_model_name_or_path": "s3://b/base",
        }  # fmt: skip
        self.manifest: dict[str, Any] = {"baseModel": {"uri": "s3://b/base", "digest": BASE, "tokenizerDigest": BASE}}
        self.unlisted: set[str] = set()
        self.also_listed: list[dict[str, Any]] = []
        self.write("adapter_model.safetensors", safetensors(tensors()))
        self.write("probes.json", json.dumps(PROBES).encode())
        self.write("README.md", b"# an adapter\n")

    def write(self, path: str, content: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)

    def seal(self, *, signed: bool = True) -> Version:
        """List and sign everything; return what the routes would say."""
        self.write("adapter_config.json", json.dumps(self.config).encode())
        for left in ("manifest.json", "model.sig"):
            (self.folder / left).unlink(missing_ok=True)
        files = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())
        listed = [self._entry(path) for path in files if path not in self.unlisted] + self.also_listed
        content = json.dumps(manifest(self.domain) | self.manifest | {"files": listed}).encode()
        self.write("manifest.json", content)
        if signed:
            self.signer.sign(self.folder)
        return self.version()

    def version(self) -> Version:
        digest = f"sha256:{hashlib.sha256((self.folder / 'manifest.json').read_bytes()).hexdigest()}"
        size = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        name = version_name(self.domain, digest)
        return Version(name=name, domain=self.domain, adapter="a", digest=digest, uri=f"file://{self.folder}", size_bytes=size)

    def _entry(self, path: str) -> dict[str, Any]:
        content = (self.folder / path).read_bytes()
        return {"path": path, "sizeBytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def manifest(domain: str) -> dict[str, Any]:
    return {
        "version": 1, "domain": domain, "method": "lora", "evaluatedPrecision": "bfloat16", "attempt": 1, "specHash": "0", "accepted": True,
        "lora": {"rank": 4, "alpha": 8, "targetModules": list(MODULES)}, "generation": {"maxNewTokens": 8},
        "job": {"namespace": "n", "name": "j", "uid": "u"}, "createdAt": "2026-01-01T00:00:00Z", "evaluation": [],
        "dataset": {"digest": BASE, "train": 1, "validation": 1, "holdout": 1, "negatives": 0, "rejected": 0},
    }  # fmt: skip


def routes(versions: Sequence[Version], keys: Sequence[str], *, routed: Sequence[str] = (), **changes: Any) -> Routes:
    made = [Route(domain=f"d{number}", revision=1, salt="s", arms=[Arm(version=name)]) for number, name in enumerate(routed)]
    values = {"epoch": 1, "revision": 1, "base_digest": BASE, "max_loras": 4, "max_lora_rank": 16} | changes
    identity = EndpointIdentity(namespace="n", name="e", uid="u")
    return Routes(endpoint=identity, signing_keys=list(keys), versions=list(versions), routes=made, **values)
