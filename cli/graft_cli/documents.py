"""The documents of manifest files, as the API server's clients read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from graft_api.schema import Invalid

GROUP = "graft.dev"
STDIN = Path("-")
NOTHING = "there is nothing in it; name a file with one of"


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, as kubectl does: mostly a `---` that was forgotten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[object] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                where = f"line {key.start_mark.line + 1}"
                raise yaml.YAMLError(f"{where}: {key.value} is there twice; is there a --- missing between two documents?")
            keys.add(key.value)
        return super().construct_mapping(node, deep=deep)


@dataclass(frozen=True)
class Document:
    """One document of a file."""

    content: object
    where: str = ""
    """Before what is said of it: the file if there are several, and which of its documents."""

    @property
    def kind(self) -> str | None:
        """Return its kind, if it has one."""
        kind = self.content.get("kind") if isinstance(self.content, dict) else None
        return kind if isinstance(kind, str) else None

    @property
    def name(self) -> str:
        """Return its name; nothing if it has none."""
        return str(self._metadata().get("name", ""))

    @property
    def namespace(self) -> str:
        """Return the namespace that it says; nothing if that is left to who applies it."""
        return str(self._metadata().get("namespace") or "")

    def is_foreign(self) -> bool:
        """Whether it is plainly of another API than graft's. A List is not: there may be anything in it."""
        version = self.content.get("apiVersion") if isinstance(self.content, dict) else None
        return isinstance(version, str) and version.partition("/")[0] != GROUP and self.kind not in {None, "List"}

    def called(self) -> str:
        """Return how to speak of it."""
        version = self.content.get("apiVersion") if isinstance(self.content, dict) else None
        return f"{version} {self.kind} {self.name}".rstrip()

    def _metadata(self) -> dict[str, Any]:
        metadata = self.content.get("metadata") if isinstance(self.content, dict) else None
        return metadata if isinstance(metadata, dict) else {}


def read_documents(paths: Sequence[Path], kinds: Sequence[str]) -> list[Document]:
    """Return the documents of all files, `-` is standard input. Raises `Invalid`. `kinds`: what should be in them."""
    return [document for path in paths for document in _of_file(path, f"{called(path)}: " if len(paths) > 1 else "", kinds)]


def called(path: Path) -> str:
    """Return how to speak of a file."""
    return "standard input" if path == STDIN else str(path)


def _of_file(path: Path, where: str, kinds: Sequence[str]) -> Iterator[Document]:
    found = [content for content in _loaded(path) if content is not None]
    if not found:
        raise Invalid([f"{called(path)}: {NOTHING} {', '.join(kinds)}"])
    for number, content in enumerate(found, 1):
        yield Document(content, f"{where}document {number}: " if len(found) > 1 else where)


def _loaded(path: Path) -> list[object]:
    try:
        text = sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8")
        # As the API server's clients read YAML: a date without quotes is a string.
        return [json.loads(json.dumps(document, default=str)) for document in yaml.load_all(text, _Loader)]
    except OSError as error:
        raise Invalid([f"{called(path)}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError, RecursionError) as error:
        raise Invalid([f"{called(path)}: not YAML: {error}"]) from error
