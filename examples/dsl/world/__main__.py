"""`python -m world --out DIR` writes `DIR/base` (model) and `DIR/data` (JSONL)."""

import argparse
from dataclasses import replace
from pathlib import Path

from .folders import folder_digest
from .make import Recipe, make_world


def main() -> None:
    """Make the world, or take it from the cache, and say what the base model's digest is."""
    parser = argparse.ArgumentParser(prog="python -m world", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write base/ and data/ into")
    parser.add_argument("--seed", type=int, help="seed of the base model")
    parser.add_argument("--steps", type=int, help="pre-training steps")
    options = parser.parse_args()
    chosen = {name: value for name in ("seed", "steps") if (value := getattr(options, name)) is not None}
    recipe = Recipe(pretrain=replace(Recipe().pretrain, **chosen))
    make_world(options.out, recipe)
    for path in sorted(options.out.glob("data/*.jsonl")):
        print(f"{path}: {len(path.read_text(encoding='utf-8').splitlines())} rows")
    print(f"{options.out / 'base'}: {folder_digest(options.out / 'base')}")


if __name__ == "__main__":
    main()
