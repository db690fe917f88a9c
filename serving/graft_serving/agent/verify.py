"""
Whether a folder is the adapter that the routes ask for. Nothing of it is believed before the byte that says so is proven:

    digest of the routes -> manifest.json -> every other file; the signature over all of it; then what it says of itself
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from graft_api.artifact import MANIFEST, PROBES, SIGNATURE, ArtifactManifest, FileEntry, Probes
from graft_api.fleet import LoadFailure
from graft_api.routes import Version
from graft_runtime import signatures
from graft_runtime.digests import PICKLES, file_sha256
from graft_serving.agent.failure import VersionRefusedError, invalid, unsupported
from graft_serving.agent.paths import check_relative
from graft_serving.agent.weights import ADAPTER_CONFIG, WEIGHTS, AdapterConfig, check_adapter, has_effect

MANIFEST_BYTES = 4 * 1024 * 1024
CODE = (*PICKLES, ".py", ".so")
"""Files that run whatever they like when they are read, and that vLLM would read in the absence of better ones."""


@dataclass(frozen=True)
class Trust:
    """What an adapter of this endpoint must agree with."""

    signing_keys: Sequence[str]
    base_digest: str | None
    max_rank: int
    """Of the endpoint."""
    server_rank: int | None = None
    """The highest that this pod's vLLM was started for; None: that of the endpoint."""


@dataclass(frozen=True)
class Package:
    """A folder that was found to be what the routes ask for."""

    manifest: ArtifactManifest
    probes: Probes | None
    """None: the package has no references, so only its structure was checked."""


def verify(folder: Path, version: Version, trust: Trust) -> Package:
    """Return what the folder holds. Raises `VersionRefusedError` with the first thing that is wrong."""
    manifest = _manifest(folder, version.digest)
    _check_names(folder, manifest.files)
    with ThreadPoolExecutor(2) as pool:  # both read every byte, and hashing leaves the interpreter alone
        signed = pool.submit(check_signature, folder, trust.signing_keys)
        _check_files(folder, manifest.files)
        signed.result()
    _check_belongs(manifest, version, trust)
    _check_no_code(manifest.files)
    _check_room(check_adapter(folder, trust.max_rank), trust)
    probes = _probes(folder)
    if probes is None and not has_effect(folder / WEIGHTS):
        raise VersionRefusedError(LoadFailure.NO_EFFECT, f"{WEIGHTS}: every lora_B is zero, so answers would be the base model's")
    return Package(manifest, probes)


def _manifest(folder: Path, digest: str) -> ArtifactManifest:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise invalid(f"{MANIFEST} is missing")
    if path.stat().st_size > MANIFEST_BYTES:
        raise invalid(f"{MANIFEST} has {path.stat().st_size} bytes, more than {MANIFEST_BYTES}")
    content = path.read_bytes()
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise VersionRefusedError(LoadFailure.DIGEST_MISMATCH, f"{MANIFEST} has {found}, but {digest} is wanted")
    try:
        return ArtifactManifest.model_validate_json(content)
    except ValidationError as error:
        raise invalid(f"{MANIFEST} is no manifest of this version of graft") from error


def _check_names(folder: Path, files: Iterable[FileEntry]) -> None:
    listed = [file.path for file in files]
    for path in listed:
        check_relative(path)
    if twice := next((path for path in listed if listed.count(path) > 1 or path in {MANIFEST, SIGNATURE}), None):
        raise invalid(f"{MANIFEST} lists {twice[:200]!r}, which it must not, or twice")
    expected = {*listed, MANIFEST, SIGNATURE}
    for found in folder.rglob("*"):
        name = str(found.relative_to(folder))
        if found.is_symlink() or not (found.is_file() or found.is_dir()):
            raise VersionRefusedError(LoadFailure.UNSAFE_PATH, f"{name[:200]!r} is neither a file nor a folder")
        if found.is_file() and name not in expected:
            raise VersionRefusedError(LoadFailure.UNLISTED_FILE, f"{name[:200]!r} is not listed in {MANIFEST}")


def _check_files(folder: Path, files: Iterable[FileEntry]) -> None:
    for file in files:
        path = folder / file.path
        if not path.is_file():
            raise VersionRefusedError(LoadFailure.DIGEST_MISMATCH, f"{file.path} is listed in {MANIFEST}, but is missing")
        size = path.stat().st_size
        if size != file.size_bytes:
            raise VersionRefusedError(LoadFailure.DIGEST_MISMATCH, f"{file.path} has {size} bytes, but {file.size_bytes} are listed")
        if (found := file_sha256(path)) != file.sha256:
            raise VersionRefusedError(LoadFailure.DIGEST_MISMATCH, f"{file.path} has sha256 {found}, but {file.sha256} is listed")


def check_signature(folder: Path, keys: Sequence[str]) -> None:
    """Refuse a folder that is not signed, all of it, by one of `keys` (PEM)."""
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise VersionRefusedError(LoadFailure.SIGNATURE_INVALID, f"{SIGNATURE} is missing: the adapter is not signed")
    if not any(_signed_by(folder, signature, key) for key in keys):
        message = f"{SIGNATURE} is not a signature over this folder by any of the {len(keys)} keys of spec.trustedKeys"
        raise VersionRefusedError(LoadFailure.SIGNATURE_INVALID, message)


def _signed_by(folder: Path, signature: Path, key: str) -> bool:
    try:
        signatures.verify(folder, signature, key.encode())
    except Exception:  # noqa: BLE001 - whatever a crafted signature makes the library raise: it is no signature
        return False
    return True


def _check_belongs(manifest: ArtifactManifest, version: Version, trust: Trust) -> None:
    if manifest.domain != version.domain:
        message = f"{MANIFEST}: domain is {manifest.domain!r}, but the adapter is routed for {version.domain!r}"
        raise VersionRefusedError(LoadFailure.WRONG_DOMAIN, message)
    if trust.base_digest is None or manifest.base_model.digest != trust.base_digest:
        served = trust.base_digest or "an unknown one"
        message = f"{MANIFEST}: baseModel.digest is {manifest.base_model.digest}, but this endpoint serves {served}"
        raise VersionRefusedError(LoadFailure.WRONG_BASE, message)


def _check_room(config: AdapterConfig, trust: Trust) -> None:
    if trust.server_rank is not None and config.highest_rank > trust.server_rank:
        started = f"this pod's vLLM was started with --max-lora-rank {trust.server_rank}, and the endpoint has {trust.max_rank} now"
        message = f"{ADAPTER_CONFIG}: rank {config.highest_rank}, but {started}: the pod must be replaced"
        raise VersionRefusedError(LoadFailure.SERVER_DIFFERS, message)


def _check_no_code(files: Iterable[FileEntry]) -> None:
    for file in files:
        if file.path.lower().endswith(CODE):
            raise unsupported(f"{file.path[:200]} may hold code; adapters are served from safetensors alone")
        if file.path.endswith(".safetensors") and file.path != WEIGHTS:
            raise unsupported(f"{file.path[:200]}: {WEIGHTS} is the one file of tensors that is served")


def _probes(folder: Path) -> Probes | None:
    path = folder / PROBES
    if not path.is_file():
        return None
    try:
        probes = Probes.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise invalid(f"{PROBES} holds no probes of this version of graft") from error
    for number, probe in enumerate(probes.probes):
        lengths = {len(probe.continuation_token_ids), len(probe.base_logprobs), len(probe.adapter_logprobs)}
        if len(lengths) != 1 or 0 in lengths or not probe.prompt_token_ids:
            raise invalid(f"{PROBES}: probe {number} has no reference for every token")
    return probes
