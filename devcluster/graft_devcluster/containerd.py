"""The cluster's own containerd: own root, state and socket, so that it shares nothing with another one on the host."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft_devcluster import settings as cluster_settings
from graft_devcluster.errors import ClusterError
from graft_devcluster.process import Daemon, Processes, write_atomically
from graft_devcluster.settings import Settings

CNI_PLUGINS = Path("/usr/lib/cni")
PAUSE_IMAGE = "graft.dev/pause:1"
_PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
_INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def root(settings: Settings) -> Path:
    """Images and snapshots: the one part of the state that `down` keeps."""
    return settings.state / "containerd"


def socket(settings: Settings) -> Path:
    return settings.run / "containerd.sock"


def configuration(settings: Settings) -> str:
    """Write containerd's TOML.

    ``restrict_oom_score_adj`` because without CAP_SYS_RESOURCE no sandbox starts ("can't get final child's PID from
    pipe"). Network namespaces lie under the state folder, so that whose they are can be told from the path.
    """
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{root(settings)}"
state = "{settings.run}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs"]

[grpc]
  address = "{socket(settings)}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{root(settings)}/opt"

[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"

[{cri}.cni]
  bin_dir = "{CNI_PLUGINS}"
  conf_dir = "{settings.configs}/cni"

[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
  Root = "{settings.run}/runc"
  SystemdCgroup = false
"""


def ensure_running(settings: Settings, processes: Processes) -> bool:
    """Start containerd if it is not running; it needs no other part of the cluster. True if it was started."""
    path = settings.configs / "containerd.toml"
    write_atomically(path, configuration(settings))
    settings.run.mkdir(mode=0o711, exist_ok=True)
    proxies = {name: os.environ[name] for name in _PROXY_VARIABLES if name in os.environ}
    daemon = Daemon("containerd", ("containerd", "--config", str(path)), (path,), inherited=proxies)
    started = processes.ensure(daemon)
    if started:
        processes.wait_for("containerd", lambda: _answers(settings), timeout=30)
    return started


def ctr(settings: Settings, *arguments: str) -> list[str]:
    """Run containerd's client in the namespace of the kubelet and return the lines it prints."""
    done = subprocess.run(_ctr(settings, *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def import_oci_layout(oci_dir: Path, reference: str, *, settings: Settings | None = None) -> None:
    """Import the one image of an OCI layout folder under a name, sending only the blobs containerd does not have.

    A changed top layer on a base of gigabytes takes as long as that layer. Starts containerd when it is not running.
    Raises ClusterError when the layout holds no image or several, or when the import fails.
    """
    settings = settings or cluster_settings.requested(None, None, None)
    reference = normalized(reference)
    ensure_running(settings, Processes(settings.pids, settings.logs))
    image = read_layout(oci_dir)
    if image_present(reference, image.digest, settings=settings):
        return
    known = set(ctr(settings, "content", "ls", "-q"))
    try:
        _send(settings, oci_dir, image, reference, missing_blobs(image.blobs, known))
    except ClusterError:
        # A garbage collection between listing and import may have taken a blob away; everything is always right.
        _send(settings, oci_dir, image, reference, image.blobs)


def image_present(reference: str, digest: str | None = None, *, settings: Settings | None = None) -> bool:
    """Whether containerd has the image, with that manifest digest if one is given, and with all of its content."""
    settings = settings or cluster_settings.requested(None, None, None)
    if not _answers(settings):
        return False
    for line in ctr(settings, "images", "check", f"name=={normalized(reference)}")[1:]:
        _, _, found, status, *_ = line.split()
        return status == "complete" and digest in (None, found)
    return False


def import_archive(archive: Path, settings: Settings) -> list[str]:
    """Import an archive written by `docker save` or `buildah push docker-archive:`; returns the names it contained."""
    lines = ctr(settings, "images", "import", "--digests=false", str(archive))
    return [line.split()[1] for line in lines if line.startswith("unpacking ")]


@dataclass(frozen=True)
class Layout:
    """The image of an OCI layout: its index entry, and the digest of every blob in it."""

    descriptor: dict[str, Any]
    blobs: tuple[str, ...]

    @property
    def digest(self) -> str:
        return str(self.descriptor["digest"])

    @property
    def name(self) -> str | None:
        """What whoever wrote the layout called the image, if anything."""
        annotations = self.descriptor.get("annotations", {})
        return next((annotations[key] for key in _NAME_ANNOTATIONS if key in annotations), None)


def read_layout(oci_dir: Path) -> Layout:
    """Read an OCI layout folder and list its image's blobs, children before parents."""
    try:
        entries = json.loads((oci_dir / "index.json").read_text())["manifests"]
    except FileNotFoundError as error:
        raise ClusterError(f"{oci_dir} is no OCI layout: it has no index.json") from error
    if len(entries) != 1:
        raise ClusterError(f"{oci_dir} holds {len(entries)} images; write each into a folder of its own")
    return Layout(entries[0], tuple(dict.fromkeys(_closure(oci_dir, entries[0]))))


def normalized(reference: str) -> str:
    """The full name that the kubelet looks an image up by: `app` means `docker.io/library/app:latest`."""
    first, slash, _ = reference.partition("/")
    if not slash:
        reference = f"docker.io/library/{reference}"
    elif "." not in first and ":" not in first and first != "localhost":
        reference = f"docker.io/{reference}"
    tagged = ":" in reference.rpartition("/")[2] or "@" in reference
    return reference if tagged else f"{reference}:latest"


def missing_blobs(blobs: tuple[str, ...], known: set[str]) -> tuple[str, ...]:
    return tuple(digest for digest in blobs if digest not in known)


def named_index(descriptor: dict[str, Any], reference: str) -> bytes:
    """An index.json that gives the image exactly one name, whatever the layout called it."""
    entry = {**descriptor, "annotations": dict.fromkeys(_NAME_ANNOTATIONS, reference)}
    return json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()


def pause_layout(binary: Path, folder: Path) -> None:
    """Write an OCI layout whose only file is the static pause program; the same program gives the same digests."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = binary.stat().st_size, 0o755
        tar.addfile(entry, io.BytesIO(binary.read_bytes()))
    layer_descriptor = _store(folder, layer.getvalue(), "application/vnd.oci.image.layer.v1.tar")
    config = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_descriptor["digest"]]},
    }
    config_descriptor = _store(folder, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": manifest_type, "config": config_descriptor, "layers": [layer_descriptor]}
    entry_of_index = _store(folder, json.dumps(manifest).encode(), manifest_type)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry_of_index]}))


def ensure_pause_image(settings: Settings, binary: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pause_layout(binary, Path(folder))
        import_oci_layout(Path(folder), PAUSE_IMAGE, settings=settings)


def _closure(oci_dir: Path, descriptor: dict[str, Any]) -> Iterator[str]:
    if descriptor.get("mediaType") in _INDEX_TYPES:
        for child in json.loads(_blob(oci_dir, descriptor["digest"]).read_text())["manifests"]:
            yield from _closure(oci_dir, child)
    else:
        manifest = json.loads(_blob(oci_dir, descriptor["digest"]).read_text())
        yield from (layer["digest"] for layer in manifest["layers"])
        yield manifest["config"]["digest"]
    yield descriptor["digest"]


def _blob(oci_dir: Path, digest: str) -> Path:
    return oci_dir / "blobs" / digest.replace(":", "/", 1)


def _store(folder: Path, content: bytes, media_type: str) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = _blob(folder, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _send(settings: Settings, oci_dir: Path, image: Layout, reference: str, blobs: tuple[str, ...]) -> None:
    """Stream the blobs as a tar into the import; no second copy of gigabytes is made on disk."""
    command = _ctr(settings, "images", "import", "--digests=false", "-")
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as importer:
            # A broken pipe means that the import failed, and it says why.
            with contextlib.suppress(BrokenPipeError), tarfile.open(fileobj=importer.stdin, mode="w|") as tar:
                _add_bytes(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
                for digest in blobs:
                    tar.add(_blob(oci_dir, digest), f"blobs/{digest.replace(':', '/', 1)}")
                _add_bytes(tar, "index.json", named_index(image.descriptor, reference))
            importer.communicate()
        said.seek(0)
        message = said.read().decode(errors="replace").strip()
    if importer.returncode or not image_present(reference, image.digest, settings=settings):
        raise ClusterError(f"import of {reference} from {oci_dir} failed: {message or 'the image is incomplete'}")


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _ctr(settings: Settings, *arguments: str) -> list[str]:
    return ["ctr", "--address", str(socket(settings)), "--namespace", "k8s.io", *arguments]


def _answers(settings: Settings) -> bool:
    if not socket(settings).is_socket():
        return False
    return subprocess.run(_ctr(settings, "version"), capture_output=True, check=False).returncode == 0
