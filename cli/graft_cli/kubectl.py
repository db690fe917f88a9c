"""kubectl, by which commands read and write a cluster: with its own context, and the rights of whoever asks."""

from __future__ import annotations

import json
import re
import subprocess
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graft_api.schema import Invalid
from graft_cli.verdicts import printable

Manifest = dict[str, Any]

KLOG = re.compile(r"[EWI]\d{4} ")
"""How a line of kubectl's log begins: level, month and day."""


@dataclass(frozen=True)
class User:
    """Who asks, as the API server knows them."""

    name: str
    groups: frozenset[str]


@dataclass(frozen=True)
class Kubectl:
    """One namespace of one cluster. Every method raises `Invalid` with kubectl's own words where it says no."""

    namespace: str | None = None
    """None: of kubectl's context."""
    context: str | None = None
    """None: kubectl's current one."""

    @classmethod
    def of(cls, options: Namespace) -> Kubectl:
        """Return the one that the options of `add_place` name."""
        return cls(options.namespace, options.context)

    def told(self, kind: str, name: str) -> bytes:
        """Return one object as JSON."""
        return self._said("get", kind, *self._place(), "-o", "json", "--", name)

    def get(self, kind: str, name: str) -> Manifest:
        """Return one object."""
        return _read(self.told(kind, name))

    def listed(self, kind: str) -> list[Manifest]:
        """Return all of the namespace."""
        items = _read(self._said("get", kind, *self._place(), "-o", "json")).get("items")
        return list(items) if isinstance(items, list) else []

    def create(self, manifest: Manifest) -> Manifest:
        """Create an object; return it as it is stored."""
        return _read(self._said("create", *self._place(), "-o", "json", "-f", "-", told=json.dumps(manifest).encode()))

    def patch(self, kind: str, name: str, operations: Sequence[Manifest]) -> None:
        """Change an object by RFC 6902. A `test` that does not hold changes nothing and is refused."""
        self._said("patch", kind, *self._place(), "--type=json", "-p", json.dumps(operations), "-o", "name", "--", name)

    def whoami(self) -> User:
        """Return who asks, by a SelfSubjectReview, which everybody may make."""
        context = ["--context", self.context] if self.context else []
        answer = _read(self._said("auth", "whoami", *context, "-o", "json"))
        try:
            user = answer["status"]["userInfo"]
            return User(str(user["username"]), frozenset(map(str, user.get("groups") or ())))
        except (KeyError, TypeError, AttributeError) as error:
            raise Invalid(["kubectl: its answer to auth whoami names nobody; try: kubectl auth whoami -o json"]) from error

    def _place(self) -> list[str]:
        namespace = ["--namespace", self.namespace] if self.namespace else []
        return namespace + (["--context", self.context] if self.context else [])

    @staticmethod
    def _said(*arguments: str, told: bytes | None = None) -> bytes:
        try:
            ended = subprocess.run(["kubectl", *arguments], input=told, capture_output=True, check=False)
        except FileNotFoundError as missing:
            raise Invalid(["kubectl is not installed here; it speaks to the cluster, with your own rights"]) from missing
        if ended.returncode:
            raise Invalid([printable(f"kubectl: {_why(ended.stderr) or f'exit code {ended.returncode}'}")])
        return ended.stdout


def add_place(parser: ArgumentParser) -> None:
    """Let a command be told where."""
    parser.add_argument("-n", "--namespace", help="default: of kubectl's context")
    parser.add_argument("--context", help="of kubectl; default: its current one")


def _read(told: bytes) -> Manifest:
    try:
        found = json.loads(told)
    except ValueError as error:
        raise Invalid(["kubectl: its answer is not JSON"]) from error
    if not isinstance(found, dict):
        raise Invalid(["kubectl: its answer is no object"])
    return found


def _why(told: bytes) -> str:
    """Return what kubectl says, without its log: of a cluster that is away it logs each try before it says so."""
    lines = told.decode(errors="replace").strip().splitlines()
    words = [line for line in lines if not KLOG.match(line)]
    return "\n".join(words or lines).removeprefix("error: ")
