"""The programs of the cluster, built from Go modules whose every dependency go.sum pins.

A build is kept under a hash of everything that determines it, so a changed pin can never run an old program and an
unchanged one is never built twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TextIO

from graft_devcluster.errors import ClusterError

MODULES = Path(__file__).resolve().parent.parent / "go"
KUBERNETES_VERSION = "v1.34.4"
KUBERAY_MODULE = "github.com/ray-project/kuberay/ray-operator"
_PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Tool:
    """One program: the folder under go/ that pins it, and its main package there."""

    name: str
    module: str
    package: str


TOOLS: tuple[Tool, ...] = (
    Tool("pause", "pause", "."),
    Tool("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Tool("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Tool("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Tool("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    Tool("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Tool("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    Tool("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    Tool("coredns", "coredns", "github.com/coredns/coredns"),
    Tool("versitygw", "versitygw", "github.com/versity/versitygw/cmd/versitygw"),
    Tool("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
    Tool("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform"),
    Tool("kuberay-operator", "kuberay", KUBERAY_MODULE),
)
API_TIER = ("kube-apiserver", "etcd", "kube-controller-manager", "kubectl")
NODE_TIER = (*API_TIER, "pause", "kubelet", "kube-scheduler", "kube-proxy", "coredns", "versitygw", "helm")
ON_PATH = ("kubectl", "helm", "kubeconform")
EVERYTHING = tuple(tool.name for tool in TOOLS)


def named(names: Iterable[str]) -> list[Tool]:
    """The tools with these names, in build order."""
    wanted = set(names)
    unknown = wanted - {tool.name for tool in TOOLS}
    if unknown:
        raise ClusterError(f"no such tool: {', '.join(sorted(unknown))}; there are {', '.join(tool.name for tool in TOOLS)}")
    return [tool for tool in TOOLS if tool.name in wanted]


class Toolbox:
    """The built programs in one cache folder."""

    def __init__(self, cache_root: Path, output: TextIO = sys.stderr) -> None:
        self._root = cache_root / "bin"
        self._output = output

    def path(self, name: str) -> Path:
        """Where the program is, or will be once it is built."""
        (tool,) = named([name])
        return self._root / f"{tool.module}-{module_hash(MODULES / tool.module, go_version())}" / name

    def missing(self, names: Iterable[str]) -> list[Tool]:
        return [tool for tool in named(names) if not self.path(tool.name).exists()]

    def ensure(self, names: Iterable[str]) -> None:
        """Build what is missing. A killed build leaves no program behind, and two callers never build the same one."""
        if not self.missing(names):
            return
        with self._lock():
            missing = self.missing(names)
            for number, tool in enumerate(missing, start=1):
                self._build(tool, f"{tool.name} ({number} of {len(missing)})")

    def crds(self) -> list[Path]:
        """The custom resource definitions of KubeRay, copied out of the module that its operator is built from."""
        folder = self.path("kuberay-operator").parent / "crds"
        if not folder.exists():
            listing = _go(MODULES / "kuberay", "list", "-m", "-f", "{{.Dir}}", KUBERAY_MODULE)
            with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
                copy = Path(partial) / "crds"
                shutil.copytree(Path(listing) / "config" / "crd" / "bases", copy)
                copy.replace(folder)
        return sorted(folder.glob("*.yaml"))

    def _build(self, tool: Tool, title: str) -> None:
        target = self.path(tool.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as folder:
            built = Path(folder) / tool.name
            command = ["go", "build", "-v", "-trimpath", "-ldflags", linker_flags(tool), "-o", str(built), tool.package]
            self._run(command, MODULES / tool.module, title)
            built.replace(target)

    def _run(self, command: list[str], folder: Path, title: str) -> None:
        """Run a build and say now and then how far it is: `go build -v` names each package as it is compiled."""
        started = time.monotonic()
        with tempfile.TemporaryFile("w+") as said:
            with subprocess.Popen(command, cwd=folder, env={**os.environ, "CGO_ENABLED": "0"}, stdout=said, stderr=said) as build:
                try:
                    while build.poll() is None:
                        self._wait(build, title, started, said)
                except BaseException:
                    build.kill()
                    raise
            said.seek(0)
            lines = said.read().splitlines()
        if build.returncode:
            raise ClusterError(f"building {title} failed:\n" + "\n".join(lines[-30:]))
        print(f"built {title} in {time.monotonic() - started:.0f} s", file=self._output, flush=True)

    def _wait(self, build: subprocess.Popen[bytes], title: str, started: float, said: TextIO) -> None:
        try:
            build.wait(_PROGRESS_SECONDS)
        except subprocess.TimeoutExpired:
            compiled = os.pread(said.fileno(), 1 << 24, 0).count(b"\n")
            print(f"building {title}: {compiled} packages, {time.monotonic() - started:.0f} s", file=self._output, flush=True)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("waiting for another build to finish", file=self._output, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            for abandoned in self._root.glob("*/.building-*"):
                shutil.rmtree(abandoned)
            yield


def module_hash(folder: Path, version: str) -> str:
    """Changes with the pins, with sources of our own, with the Go release and with the linker flags."""
    digest = hashlib.sha256(f"{version}\n{KUBERNETES_VERSION}\n".encode())
    for path in sorted(folder.glob("*")):
        if path.suffix in (".mod", ".sum", ".go"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def linker_flags(tool: Tool) -> str:
    """Kubernetes takes its version from the linker; without it every component calls itself v0.0.0 and refuses skew checks."""
    flags = ["-s", "-w"]
    if tool.package.startswith("k8s.io/kubernetes/"):
        major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [f"-X {package}.gitVersion={KUBERNETES_VERSION}", f"-X {package}.gitMajor={major}", f"-X {package}.gitMinor={minor}"]
    return " ".join(flags)


@cache
def go_version() -> str:
    """The Go release and platform of this machine; a module may still switch to a newer toolchain that its go.mod names."""
    return _go(Path("/"), "env", "GOVERSION", "GOOS", "GOARCH")


def _go(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["go", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ClusterError("`go` is not on PATH; install Go 1.26 or newer (https://go.dev/dl)") from error
    if done.returncode:
        raise ClusterError(f"go {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()
