"""Load the base model: for training as the method says, for evaluation as it will be served."""

from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from graft_api.reports import Reason
from graft_trainer.errors import BadInputError

DTYPES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "nf4": torch.bfloat16}
"""By evaluation precision; for nf4 what is computed in."""


def compute_dtype() -> torch.dtype:
    """Return what training computes in: bfloat16 wherever the hardware really has it (and on CPU), else float16."""
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def load_model(path: Path, dtype: torch.dtype, *, four_bit: bool, device: str) -> Any:  # noqa: ANN401 - transformers is not typed for us
    """
    Load a causal language model from safetensors; never code from its folder.

    `four_bit`: NF4 with double quantisation, Dettmers et al. 2023 (arXiv 2305.14314).
    """
    quantization = None
    if four_bit:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    try:
        return AutoModelForCausalLM.from_pretrained(
            str(path),
            dtype=dtype,
            quantization_config=quantization,
            device_map={"": device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError) as error:
        message = f"spec.baseModel.uri: the model cannot be loaded: {str(error).partition(chr(10))[0][:200]}"
        raise BadInputError(Reason.BASE_MODEL_INVALID, message) from error


def device_of(local_rank: int) -> str:
    """Return the device of this process."""
    return f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu"
