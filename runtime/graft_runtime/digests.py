"""The digest of a file and of a folder: what one part writes down, another proves."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from graft_api.artifact import FileEntry

PARALLEL = 4
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")
"""Code, and mostly a second copy of the weights. Nobody copies them, so they are not in the digest of a base that is copied."""


def file_sha256(path: Path) -> str:
    """Return the file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path, without: Iterable[str] = ()) -> list[FileEntry]:
    """List every regular file below `folder` by its relative path, sorted."""
    left_out = set(without)
    found = sorted((str(file.relative_to(folder)), file) for file in folder.rglob("*") if file.is_file())
    chosen = [(path, file) for path, file in found if path not in left_out]
    with ThreadPoolExecutor(PARALLEL, "digest") as pool:
        digests = pool.map(file_sha256, (file for _, file in chosen))
        return [
            FileEntry(path=path, size_bytes=file.stat().st_size, sha256=digest)
            for (path, file), digest in zip(chosen, digests, strict=True)
        ]


def folder_digest(files: Iterable[FileEntry]) -> str:
    """Return `sha256:` over the sorted lines `<sha256>  <path>`, as `sha256sum` prints them."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for file in files)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
