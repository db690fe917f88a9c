"""Makes the world once per recipe, keeps it in a cache, and copies it where it is wanted."""

import hashlib
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from .data import DataPlan, write_data
from .folders import cache_folder
from .pretrain import PretrainPlan, pretrain

CODE: Final = ("grammar.py", "tokenizer.py", "pretrain.py", "data.py")
"""The modules that decide what comes out."""
LIBRARIES: Final = ("torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class Recipe:
    """Everything the world follows from, besides the code."""

    pretrain: PretrainPlan = field(default_factory=PretrainPlan)
    data: DataPlan = field(default_factory=DataPlan)

    def digest(self) -> str:
        """Content hash of code, parameters and library versions."""
        here = Path(__file__).parent
        parts = [(here / name).read_text(encoding="utf-8") for name in CODE]
        parts += [f"{name} {version(name)}" for name in LIBRARIES]
        parts.append(repr((asdict(self.pretrain), asdict(self.data))))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def make_world(out: Path, recipe: Recipe) -> None:
    """Leave `base/` and `data/` of `recipe` in `out`, made now or taken from the cache."""
    made = cache_folder() / "world" / recipe.digest()
    if made.is_dir():
        print(f"taken from {made}")
    else:
        _make(made, recipe)
    for part in ("base", "data"):
        _replace(out / part, made / part)


def _make(target: Path, recipe: Recipe) -> None:
    """Build beside `target` and rename, so that a half-made world is never found."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        clock = time.process_time()
        write_data(scratch / "data", recipe.data)
        print(f"data: {time.process_time() - clock:.0f} CPU-s", flush=True)
        clock = time.process_time()
        pretrain(scratch / "base", recipe.pretrain)
        print(f"base model: {time.process_time() - clock:.0f} CPU-s", flush=True)
        _open_for_readers(scratch)
        try:
            scratch.rename(target)
        except OSError:  # someone else made the same world meanwhile; theirs is as good
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(target: Path, source: Path) -> None:
    """Copy `source` to `target`, replacing what stands there in one rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    shutil.copytree(source, scratch / "new")
    if target.exists():
        target.rename(scratch / "old")
    (scratch / "new").rename(target)
    shutil.rmtree(scratch)


def _open_for_readers(folder: Path) -> None:
    """Let any user read: safetensors writes 0600 and mkdtemp 0700, and a pod reads as somebody else."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
