"""A base model that is small to run but has room for a large adapter, and such an adapter, trained and signed as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from packages import Package
from stories import Signer, train
from transformers import LlamaConfig, LlamaForCausalLM

from graft_api.artifact import PROBES

RANK = 256
WIDTH, INNER, LAYERS = 512, 2048, 16
"""188,416 rows and columns of adapted modules: 193 MB of float32, as PEFT saves it, at rank 256, beside 136 MB of base model."""


def wide_world(world: Path, place: Path) -> Path:
    """Return a folder like `world`, with the same words and data and a wider base model of random weights."""
    base = place / "base"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world / "data", place / "data")
    shutil.copytree(world / "base", base, ignore=shutil.ignore_patterns("*.safetensors"))
    shape = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "head_dim": WIDTH // 8}
    config = LlamaConfig(**json.loads((base / "config.json").read_text()) | shape)
    torch.manual_seed(7)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(base)
    return place


def large(package: Package) -> Package:
    """
    In float32, and without probes: on CPU vLLM 0.32 copies all weights of an adapter for every token, so that on one thread the probes
    take longer than an agent waits. On a GPU they take no time to speak of.
    """
    (package.path / PROBES).unlink()
    return package.change_weights(lambda weights: {name: tensor.float() for name, tensor in weights.items()})


def large_package(world: Path, place: Path) -> tuple[Path, Signer]:
    """Train an adapter of about 200 MB on the wide base."""
    return train(world, place, rows=64, lora={"rank": RANK, "alpha": RANK, "dropout": "0"})
