"""The images of graft: built from the Dockerfile when what they are made of has changed, and loaded into the cluster.

An image's tag is a hash of its inputs, so an unchanged tree costs a look at its files, and a changed one can never run
under the name of another. The same Dockerfile builds the published images; here a base image is made from Debian packages,
and on a machine without a GPU the trainer is the small test-only variant.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft_devcluster import cluster, containerd, packages
from graft_devcluster import settings as cluster_settings
from graft_devcluster.buildah import BASE_LEFT_OUT, BASE_PACKAGES, BASE_RELEASE, Workshop
from graft_devcluster.errors import ClusterError
from graft_devcluster.process import write_atomically
from graft_devcluster.settings import Settings

# In the order they are built: vLLM's image lies on the trainer's dependencies.
TARGETS = ("operator", "trainer", "serving", "vllm-cpu")
REPOSITORY = "graft.dev"
ROOT = Path(__file__).resolve().parents[2]
GPU_DRIVER = Path("/proc/driver/nvidia/version")
STANDINS = "devcluster/graft_devcluster/standins.py"
VLLM_CPU = "devcluster/graft_devcluster/vllm_cpu.py"
# An operator that still runs names the trainer image of its own build.
KEPT_IN_CONTAINERD = 3

_CHART_KEYS: Mapping[str, str] = {"operator": "image", "trainer": "trainer.image", "serving": "serving.image", "vllm-cpu": "vllm.image"}
_RECIPE = ("Dockerfile", "pyproject.toml", "uv.lock")
_FILES = (*_RECIPE, "README.md", STANDINS, VLLM_CPU)
_WITH_STANDINS = ("trainer", "vllm-cpu")
_WITHOUT_GRAFT = ("vllm-cpu",)
# Hatchling's own: files in a zip archive cannot be older.
_TIMESTAMP = 315532800


@dataclass(frozen=True)
class Inputs:
    """What determines the images: path -> content of each file in the build context, and the trainer's variant."""

    files: Mapping[str, bytes]
    variant: str

    def reference(self, target: str) -> str:
        """The image's name. In base 32, because Helm's ``--set`` takes a tag of digits for a number."""
        digest = hashlib.sha256(repr((target, BASE_RELEASE, BASE_PACKAGES, BASE_LEFT_OUT)).encode())
        if target == "trainer":
            digest.update(self.variant.encode())
        for path, content in sorted(self.files.items()):
            if self._is_in(target, path):
                digest.update(f"{path}\0{len(content)}\0".encode() + content)
        return f"{REPOSITORY}/{target}:{base64.b32encode(digest.digest()).decode()[:12].lower()}"

    @staticmethod
    def _is_in(target: str, path: str) -> bool:
        if path == STANDINS:
            return target in _WITH_STANDINS
        if path == VLLM_CPU:
            return target == "vllm-cpu"
        return path in _RECIPE or target not in _WITHOUT_GRAFT

    def uv_version(self) -> str:
        found = re.search(r"^ARG UV_IMAGE=\S+:([0-9.]+)$", self.files["Dockerfile"].decode(), re.MULTILINE)
        if not found:
            raise ClusterError("Dockerfile: `ARG UV_IMAGE=` names no version of uv")
        return found[1]

    def write(self, folder: Path) -> None:
        """Write the build context, the same whatever the umask and the age of the working tree."""
        for path, content in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            target.chmod(0o644)
            os.utime(target, (_TIMESTAMP, _TIMESTAMP))
        for below in (folder, *folder.rglob("*/")):
            below.chmod(0o755)
            os.utime(below, (_TIMESTAMP, _TIMESTAMP))


def ensure_images(names: Sequence[str], load: bool, settings: Settings | None = None) -> dict[str, str]:
    """Have the images built, and loaded into the cluster's containerd if asked; returns target -> reference.

    Raises ClusterError where a build fails or the machine lacks something.
    """
    if unknown := set(names) - set(TARGETS):
        raise ClusterError(f"no such image: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    chosen = settings or cluster_settings.requested(None, None, None)
    workshop = Workshop(chosen.cache / "images")
    with workshop.locked():
        inputs = read_inputs(ROOT, "cuda" if GPU_DRIVER.exists() else "cpu")
        references = {name: inputs.reference(name) for name in names}
        stale = [name for name in names if _built(workshop, name) != references[name]]
        if stale:
            _build(workshop, inputs, stale)
        if load:
            _load(workshop, chosen, references)
    return references


def read_inputs(root: Path, variant: str) -> Inputs:
    """Read the files that the images are made of: the named ones, and the packages of the wheel."""
    files = {name: (root / name).read_bytes() for name in _FILES}
    wheel = tomllib.loads(files["pyproject.toml"].decode())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        for path in (root / package).rglob("*"):
            name = path.relative_to(root)
            if path.is_file() and "__pycache__" not in name.parts and not path.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):  # an editor's temporary file
                    files[str(name)] = path.read_bytes()
    return Inputs(files, variant)


def chart_values(references: Mapping[str, str]) -> list[str]:
    """Values for Helm's ``--set`` that make the chart use these images."""
    values = []
    for target, reference in references.items():
        repository, _, tag = reference.rpartition(":")
        values += [f"{_CHART_KEYS[target]}.repository={repository}", f"{_CHART_KEYS[target]}.tag={tag}"]
    return values


def built_images(cache: Path) -> dict[str, str]:
    """Target -> reference of what was built last, for those who only want to know."""
    return {target: references[0] for target, references in _history(Workshop(cache / "images")).items()}


def _build(workshop: Workshop, inputs: Inputs, targets: Sequence[str]) -> None:
    if os.geteuid() != 0:
        raise ClusterError("building images needs root: a base image is made with debootstrap and layers are mounted")
    packages.ensure()
    with workshop.clean_scratch() as scratch:
        context = scratch / "context"
        inputs.write(context)
        present = workshop.references()
        base, uv = workshop.base(present), workshop.uv(inputs.uv_version(), present)
        for target in targets:
            started = time.monotonic()
            reference = inputs.reference(target)
            workshop.build(target, reference, context, {"BASE_IMAGE": base, "UV_IMAGE": uv, "TRAINER_VARIANT": inputs.variant})
            exported = time.monotonic()
            workshop.export(target, reference)
            _remember(workshop, target, reference)
            _say(f"built {reference} in {exported - started:.1f} s, exported in {time.monotonic() - exported:.1f} s")
        workshop.keep_only({base, uv, *built_images(workshop.folder.parent).values()})


def _load(workshop: Workshop, settings: Settings, references: Mapping[str, str]) -> None:
    with cluster.locked(settings):
        containerd.ensure_running(settings, cluster.processes_of(settings))
    for target, reference in references.items():
        digest = containerd.read_layout(workshop.layout(target)).digest
        if containerd.image_present(reference, digest, settings=settings):
            continue
        started = time.monotonic()
        _say(f"loading {reference}")
        containerd.import_oci_layout(workshop.layout(target), reference, settings=settings)
        _say(f"loaded {reference} in {time.monotonic() - started:.1f} s")
        _drop_old(settings, target, _history(workshop)[target])


def _drop_old(settings: Settings, target: str, kept: Sequence[str]) -> None:
    """Remove this target's images that are neither recent nor used by a container, under every name containerd has for them."""
    listed = [line.split() for line in containerd.ctr(settings, "images", "ls")[1:]]
    used_names = {line.split()[1] for line in containerd.ctr(settings, "containers", "ls")[1:] if len(line.split()) > 1}
    used = {digest for name, _, digest, *_ in listed if name in used_names or name in kept}
    old = {digest for name, _, digest, *_ in listed if name.startswith(f"{REPOSITORY}/{target}:")} - used
    if names := [name for name, _, digest, *_ in listed if digest in old]:
        containerd.ctr(settings, "images", "rm", *names)


def _built(workshop: Workshop, target: str) -> str | None:
    """What the target's layout holds."""
    references = _history(workshop).get(target)
    return references[0] if references and (workshop.layout(target) / "index.json").exists() else None


def _history(workshop: Workshop) -> dict[str, list[str]]:
    """Target -> the references built last, newest first."""
    try:
        found: dict[str, list[str]] = json.loads((workshop.folder / "images.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def _remember(workshop: Workshop, target: str, reference: str) -> None:
    history = _history(workshop)
    earlier = [other for other in history.get(target, []) if other != reference]
    history[target] = [reference, *earlier][:KEPT_IN_CONTAINERD]
    write_atomically(workshop.folder / "images.json", json.dumps(history, indent=1))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
