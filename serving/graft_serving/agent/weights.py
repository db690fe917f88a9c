"""
What an adapter says of itself: adapter_config.json and the header of its tensors, read without torch.

vLLM refuses some of this itself, serves some of it silently as something else, and reads no tensor that it does not expect:
what is not plain LoRA in every module that the configuration names is refused here, before vLLM hears of it.
"""

import json
import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError, invalid, unsupported
from graft_serving.agent.patterns import MODULE_LENGTH, check_pattern

ADAPTER_CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"

HEADER_BYTES: Final = 32 * 1024 * 1024
"""More than any adapter's header: 100,000 tensors take about 15 MB."""
ITEM_BYTES: Final = {"BF16": 2, "F16": 2, "F32": 4}
"""Of a tensor's values; vLLM would cast others, which nobody has measured."""

PLAIN_INITS: Final = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""
Those that only begin differently. Others (PiSSA, OLoRA, CorDA, LoftQ) change the base model's weights when PEFT loads the adapter
(vLLM 0.32, `lora/peft_helper.py`, refuses the same).
"""
REFUSED_FIELDS: Final = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "alora_invocation_tokens",
    "use_bdlora",
    "use_qalora",
    "trainable_token_indices",
    "arrow_config",
    "fan_in_fan_out",
)
"""Of adapter_config.json: vLLM refuses them or, worse, ignores them."""

_TENSOR = re.compile(r"base_model\.model\.(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class Tensor:
    """One tensor of the header."""

    shape: tuple[int, ...]
    start: int
    """In the file."""
    end: int


@dataclass(frozen=True)
class AdapterConfig:
    """The fields of adapter_config.json that decide how the tensors are used."""

    rank: int
    rank_pattern: Mapping[str, int]
    target_modules: tuple[str, ...] | str
    """Names, or PEFT's regular expression."""
    target_parameters: tuple[str, ...]

    @property
    def highest_rank(self) -> int:
        """Of any module."""
        return max(self.rank, *self.rank_pattern.values(), 0)

    def rank_of(self, module: str) -> int:
        """Return the rank of one module, by PEFT's rule: the first pattern that matches its end."""
        for pattern, rank in self.rank_pattern.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return rank
        return self.rank


def check_adapter(folder: Path, max_rank: int) -> AdapterConfig:
    """Return its configuration. Refuses an adapter that vLLM would not serve just as it was trained."""
    config = read_config(folder / ADAPTER_CONFIG, max_rank)
    check_tensors(read_header(folder / WEIGHTS), config)
    return config


def read_config(path: Path, max_rank: int) -> AdapterConfig:
    """Return the configuration of a plain LoRA of at most `max_rank`."""
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise invalid(f"{ADAPTER_CONFIG} is missing") from None
    except ValueError as error:
        raise invalid(f"{ADAPTER_CONFIG} is not JSON") from error
    if not isinstance(raw, dict):
        raise invalid(f"{ADAPTER_CONFIG} is not an object")
    _check_features(raw)
    config = AdapterConfig(_rank(raw, "r"), _rank_pattern(raw), _targets(raw), _names(raw, "target_parameters"))
    if config.highest_rank > max_rank:
        message = f"{ADAPTER_CONFIG}: rank {config.highest_rank} is above the {max_rank} that the endpoint serves (spec.server.maxLoraRank)"
        raise VersionRefusedError(LoadFailure.RANK_TOO_HIGH, message)
    return config


def _check_features(raw: Mapping[str, Any]) -> None:
    if raw.get("peft_type") != "LORA":
        raise unsupported(f"{ADAPTER_CONFIG}: peft_type is {_short(raw.get('peft_type'))}; only LORA is served")
    if used := next((name for name in REFUSED_FIELDS if raw.get(name)), None):
        raise unsupported(f"{ADAPTER_CONFIG}: {used} is {_short(raw[used])}; vLLM does not serve adapters with it")
    if raw.get("bias", "none") != "none":
        raise unsupported(f"{ADAPTER_CONFIG}: bias is {_short(raw['bias'])}; vLLM serves none")
    init = raw.get("init_lora_weights", True)
    if not (init is None or isinstance(init, bool) or (isinstance(init, str) and init.lower() in PLAIN_INITS)):
        raise unsupported(f"{ADAPTER_CONFIG}: init_lora_weights is {_short(init)}, which changes the base model's weights")


def _rank(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise invalid(f"{ADAPTER_CONFIG}: {name} is {_short(value)}, not a rank of 1 or more")
    return value


def _rank_pattern(raw: Mapping[str, Any]) -> dict[str, int]:
    pattern = raw.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        raise invalid(f"{ADAPTER_CONFIG}: rank_pattern is not an object")
    for key in pattern:
        check_pattern(f"{ADAPTER_CONFIG}: rank_pattern", key)
    return {key: _rank(pattern, key) for key in pattern}


def _targets(raw: Mapping[str, Any]) -> tuple[str, ...] | str:
    targets = raw.get("target_modules")
    if isinstance(targets, str) and targets:
        check_pattern(f"{ADAPTER_CONFIG}: target_modules", targets)
        return targets
    names = _names(raw, "target_modules")
    if not names and not raw.get("target_parameters"):
        raise invalid(f"{ADAPTER_CONFIG}: target_modules names no module")
    return names


def _names(raw: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = raw.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        raise invalid(f"{ADAPTER_CONFIG}: {name} is not a list of names")
    return tuple(found)


def read_header(path: Path) -> dict[str, Tensor]:
    """
    Return the tensors of a safetensors file by name.

    By hand, for the safetensors library wants numpy or torch to open a file: 8 bytes of length, a JSON header, then the tensors
    without gaps (https://github.com/huggingface/safetensors, "Format").
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(HEADER_BYTES, size - 8):
                raise invalid(f"{WEIGHTS}: a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        tensors = {name: _tensor(entry, 8 + length) for name, entry in header.items() if name != "__metadata__"}
    except FileNotFoundError:
        raise unsupported(f"{WEIGHTS} is missing; adapters are served from safetensors alone") from None
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise invalid(f"{WEIGHTS} is no safetensors file: its header cannot be read") from error
    _check_layout(tensors, 8 + length, size)
    return tensors


def _tensor(entry: Mapping[str, Any], data: int) -> Tensor:
    shape = tuple(entry["shape"])
    start, end = entry["data_offsets"]
    values = ITEM_BYTES[entry["dtype"]]
    for dimension in shape:
        values *= dimension
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, start, end)) or end - start != values:
        raise ValueError("offsets and shape disagree")
    return Tensor(shape, data + start, data + end)


def _check_layout(tensors: Mapping[str, Tensor], data: int, size: int) -> None:
    end = data
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            raise invalid(f"{WEIGHTS}: tensor {_short(name)} does not begin where the one before it ends")
        end = tensor.end
    if end != size:
        raise invalid(f"{WEIGHTS}: the tensors end at byte {end} of {size}")


def check_tensors(tensors: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Refuse tensors that are not one A and one B, of the right rank, for modules that the configuration names, all of them."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _TENSOR.fullmatch(name)
        if found is None:
            raise unsupported(f"{WEIGHTS}: tensor {_short(name)} is no lora_A or lora_B of a module")
        if len(found["module"]) > MODULE_LENGTH:
            raise unsupported(f"{WEIGHTS}: a module's name of {len(found['module'])} characters, more than {MODULE_LENGTH}")
        sides.setdefault(found["module"], {})[found["side"]] = tensor
    for module, pair in sides.items():
        _check_pair(module, pair, config)
    _check_targets(sides, config)


def _check_pair(module: str, pair: Mapping[str, Tensor], config: AdapterConfig) -> None:
    if set(pair) != {"A", "B"}:
        raise invalid(f"{WEIGHTS}: {module} has lora_{next(iter(pair))} alone")
    shapes = (pair["A"].shape, pair["B"].shape)
    if [len(shape) for shape in shapes] != [2, 2]:
        raise invalid(f"{WEIGHTS}: {module} has tensors of shapes {shapes[0]} and {shapes[1]}; they must be matrices")
    rank = config.rank_of(module)
    ranks = (shapes[0][0], shapes[1][1])
    # PEFT stacks the experts of a fused module: its rank is that of one expert times their number.
    fused = bool(config.target_parameters) and ".experts" in module
    if ranks[0] != ranks[1] or (ranks[0] % rank if fused else ranks[0] != rank):
        raise invalid(f"{WEIGHTS}: {module} has ranks {ranks[0]} (A) and {ranks[1]} (B), but {ADAPTER_CONFIG} says {rank}")


def _check_targets(modules: Mapping[str, object], config: AdapterConfig) -> None:
    if not modules:
        raise invalid(f"{WEIGHTS} holds no tensors")
    plain = [module for module in modules if not (config.target_parameters and ".experts" in module)]
    if stray := next((module for module in plain if not _targeted(module, config.target_modules)), None):
        raise invalid(f"{WEIGHTS}: {stray} is not among the target_modules of {ADAPTER_CONFIG}")
    names = () if isinstance(config.target_modules, str) else config.target_modules
    if missing := [name for name in names if not any(_targeted(module, (name,)) for module in plain)]:
        message = f"{WEIGHTS} has no tensors for {', '.join(sorted(missing)[:8])}, which {ADAPTER_CONFIG} names in target_modules"
        raise invalid(message)


def _targeted(module: str, targets: tuple[str, ...] | str) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in targets)


def has_effect(path: Path) -> bool:
    """Whether any lora_B holds anything but zeros. All that can be said without the package's references."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for name, tensor in read_header(path).items():
            data = content[tensor.start : tensor.end]
            if ".lora_B." in name and data.count(0) != len(data):
                return True
    return False


def _short(value: object) -> str:
    return repr(value)[:80]
