"""
Correct one thing in vLLM's CPU build, in the image for tests: `python vllm_cpu.py <site-packages>`.

vLLM 0.32 gives requests for the base model the adapter index -1. The GPU kernels skip it; the PyTorch fallback of the CPU build takes it
for Python's "last", so that a base request that shares a batch with an adapter's is answered with the weights in the last slot.
"""

import py_compile
import sys
from pathlib import Path

FILE = "vllm/lora/ops/torch_ops/lora_ops.py"
WRONG = "    output_tensor[:, : outputs.shape[1]] = scaling * outputs[:]\n"
RIGHT = "    outputs = outputs * (lora_indices_tensor >= 0).unsqueeze(1)  # -1: the base model\n" + WRONG


def correct(source: str) -> str:
    """Return the module with the rows of base requests zeroed. Raises ValueError if it is not the module that was read."""
    if source.count(WRONG) != 1 or RIGHT in source:
        raise ValueError(f"{FILE} has changed: look whether requests for the base model are still answered wrongly, and drop this if not")
    return source.replace(WRONG, RIGHT)


def main(site_packages: Path) -> None:
    """Correct the module in place, and compile it: nothing compiles in the container."""
    file = site_packages / FILE
    file.write_text(correct(file.read_text()))
    py_compile.compile(str(file), doraise=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
