"""The mock and the load generator: Go programs without dependencies, built once and kept until their source changes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from graft_devcluster.settings import cache_root
from graft_devcluster.tools import go_version

SOURCE = Path(__file__).parent / "go"


def program(name: str) -> Path:
    """The built `mock` or `load`."""
    folder = cache_root() / "bin" / f"bench-gateway-{source_hash()}"
    target = folder / name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as partial:
            built = Path(partial) / name
            command = ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(built), f"./{name}"]
            subprocess.run(command, cwd=SOURCE, check=True, env={**os.environ, "CGO_ENABLED": "0"})
            built.replace(target)
    return target


def source_hash() -> str:
    digest = hashlib.sha256(go_version().encode())
    for path in sorted([*SOURCE.glob("*.mod"), *SOURCE.glob("*/*.go")]):
        digest.update(f"{path.relative_to(SOURCE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
