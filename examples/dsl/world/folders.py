"""Where the cache is, and what a folder's digest is."""

import hashlib
import os
from pathlib import Path


def cache_folder() -> Path:
    """`${GRAFT_CACHE:-${XDG_CACHE_HOME:-~/.cache}/graft}`."""
    if graft := os.environ.get("GRAFT_CACHE"):
        return Path(graft)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"


def folder_digest(folder: Path) -> str:
    """`sha256:` over the sorted lines `<sha256 hex>  <relative path>` of every file in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    lines = sorted(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files)
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
