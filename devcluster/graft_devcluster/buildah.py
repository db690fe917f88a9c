"""Building images with buildah, whose storage, cache mounts and logs all lie in one folder of ours.

Every program runs in a mount and a process namespace of its own, and dies with this process: an interrupted build leaves
neither mounts nor processes on the host.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from graft_devcluster import containerd
from graft_devcluster.errors import ClusterError

BASE_RELEASE = "bookworm"
BASE_PACKAGES = ("ca-certificates", "python3.11")
# /etc/resolv.conf and /etc/hostname are copied from the host by debootstrap.
BASE_LEFT_OUT = (
    *("./dev/*", "./proc/*", "./sys/*", "./etc/resolv.conf", "./etc/hostname"),
    *("./usr/share/doc/*", "./usr/share/info/*", "./usr/share/lintian/*", "./usr/share/locale/*", "./usr/share/man/*"),
    *("./var/cache/apt/*", "./var/cache/debconf/*-old", "./var/lib/apt/lists/*", "./var/log/*"),
)
_ALONE = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
)
_PROGRESS_SECONDS = 10.0


class Workshop:
    """One folder: buildah's storage, and an OCI layout per image that was built."""

    def __init__(self, folder: Path, output: TextIO = sys.stderr) -> None:
        self.folder = folder
        self._output = output
        self._scratch = folder / "tmp"

    def layout(self, name: str) -> Path:
        return self.folder / "layouts" / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One build at a time; a second caller waits and then finds the work done."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say("waiting for another build of images to finish")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def clean_scratch(self) -> Iterator[Path]:
        """An empty folder for contexts, exports and buildah's cache mounts, which buildah itself never removes."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        self._buildah("clear away what an interrupted build left", "rm", "--all")
        try:
            yield self._scratch
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def base(self, present: set[str]) -> str:
        """The image that stands in for python:3.11-slim-bookworm, from Debian packages alone."""
        definition = hashlib.sha256(repr((BASE_RELEASE, BASE_PACKAGES, BASE_LEFT_OUT)).encode()).hexdigest()[:12]
        reference = f"localhost/graft-base:{definition}"
        if reference not in present:
            root, context = self._scratch / "root", self._scratch / "base"
            context.mkdir()
            packages = f"--include={','.join(BASE_PACKAGES)}"
            self._run("base image, Debian packages", ["debootstrap", "--variant=minbase", packages, BASE_RELEASE, str(root)])
            left_out = [f"--exclude={pattern}" for pattern in BASE_LEFT_OUT]
            self._run("base image, archive", ["tar", "-C", str(root), *left_out, "-cf", str(context / "root.tar"), "."])
            (context / "Dockerfile").write_text('FROM scratch\nADD root.tar /\nCMD ["python3.11"]\n')
            self._buildah("base image", "build", "--tag", reference, str(context))
            shutil.rmtree(root)
        return reference

    def uv(self, version: str, present: set[str]) -> str:
        """An image that holds the program uv and nothing else, as the published one does."""
        reference = f"localhost/graft-uv:{version}"
        if reference not in present:
            context = self._scratch / "uv"
            beside = Path(sys.executable).with_name("uv")  # where devcluster/bootstrap links it
            install = [
                str(beside) if beside.exists() else "uv",
                "pip",
                "install",
                "--quiet",
                "--no-config",
                "--python",
                sys.executable,
                "--target",
                str(context),
                f"uv=={version}",
            ]
            self._run("uv", install)
            (context / "Dockerfile").write_text("FROM scratch\nCOPY bin/uv /uv\n")
            self._buildah("uv image", "build", "--tag", reference, str(context))
        return reference

    def build(self, target: str, reference: str, context: Path, arguments: Mapping[str, str]) -> None:
        """Build a target of the context's Dockerfile. uv's cache is the user's own, so nothing is downloaded twice."""
        uv_cache = Path(os.environ.get("UV_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uv")
        uv_cache.mkdir(parents=True, exist_ok=True)
        given = {"UV_CACHE_DIR": "/mnt", **arguments}
        options = ["--target", target, "--tag", reference, "--volume", f"{uv_cache}:/mnt"]
        if bundle := os.environ.get("SSL_CERT_FILE"):
            options += ["--secret", f"id=ca-bundle,src={bundle}"]
            given["SSL_CERT_FILE"] = "/run/secrets/ca-bundle"
        options += [f"--build-arg={key}={value}" for key, value in given.items()]
        self._buildah(f"{target} image", "build", "--isolation", "chroot", "--layers", *options, str(context))

    def export(self, name: str, reference: str) -> None:
        """Write an image as the one image of its layout.

        buildah compresses every layer anew on each push, but leaves out a layer whose uncompressed blob the layout has.
        So large new layers are first written uncompressed; after a change of code alone only the small one is pushed.
        A layer that another layout has is that one's file under one more name.
        """
        layout = self.layout(name)
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        described = json.loads(self._buildah(f"{name} image, description", "inspect", "--type", "image", reference))
        layers = [digest.removeprefix("sha256:") for digest in described["OCIv1"]["rootfs"]["diff_ids"]]
        for digest in layers:
            if not (blobs / digest).exists() and (elsewhere := next(self.folder.glob(f"layouts/*/blobs/sha256/{digest}"), None)):
                (blobs / digest).hardlink_to(elsewhere)
        if any(not (blobs / digest).exists() for digest in layers[:-1]):
            staging = self._scratch / "layers"
            self._buildah(f"{name} image, layers", "push", "--disable-compression", reference, f"dir:{staging}")
            for blob in staging.iterdir():
                if re.fullmatch(r"[0-9a-f]{64}", blob.name) and not (blobs / blob.name).exists():
                    blob.replace(blobs / blob.name)
        (layout / "index.json").unlink(missing_ok=True)
        pushed = f"oci:{layout}:{reference}"
        self._buildah(f"{name} image, layout", "push", "--compression-format", "zstd", "--compression-level", "1", reference, pushed)
        needed = {digest.removeprefix("sha256:") for digest in containerd.read_layout(layout).blobs}
        for blob in blobs.iterdir():
            if blob.name not in needed:
                blob.unlink()

    def references(self) -> set[str]:
        """The names of the images in the storage."""
        return set(self._buildah("images", "images", "--format", "{{.Name}}:{{.Tag}}").split())

    def keep_only(self, wanted: set[str]) -> None:
        """Remove the other images, and layers that none of these is built on."""
        if unwanted := sorted(reference for reference in self.references() - wanted if "<none>" not in reference):
            self._buildah("old images", "rmi", *unwanted)
        self._buildah("old layers", "rmi", "--prune")

    def _buildah(self, title: str, *arguments: str) -> str:
        storage = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run"), "--storage-driver", "overlay"]
        return self._run(title, ["buildah", *storage, *arguments])

    def _run(self, title: str, command: list[str]) -> str:
        """Run a program to its end and return its output; say now and then how far it is. ClusterError if it fails."""
        started = time.monotonic()
        log = self.folder / "build.log"
        environment = {**os.environ, "TMPDIR": str(self._scratch)}
        with log.open("w") as said, subprocess.Popen([*_ALONE, *command], stdout=subprocess.PIPE, stderr=said, env=environment) as program:
            try:
                while True:
                    try:
                        output, _ = program.communicate(timeout=_PROGRESS_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        self._say(f"{title}: {time.monotonic() - started:.0f} s {_last_step(log)}")
            except BaseException:
                program.kill()
                raise
        text = output.decode(errors="replace")
        if program.returncode:
            lines = [*text.splitlines(), *log.read_text(errors="replace").splitlines()]
            raise ClusterError(f"{title}: {command[0]} failed:\n" + "\n".join(lines[-30:]))
        return text

    def _say(self, message: str) -> None:
        print(message, file=self._output, flush=True)


def _last_step(log: Path) -> str:
    """What the program said last, shortened to a line."""
    lines = log.read_text(errors="replace").splitlines()
    return f"({lines[-1].strip()[:100]})" if lines else ""
