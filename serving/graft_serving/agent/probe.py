"""
Whether a loaded adapter does here what its package says it does: the effect probe.

vLLM answers with the base model, and no word about it, when an adapter's tensors match nothing; "the answers differ" passes on
noise. So the package brings references: for some tokens, the log-probability that base and adapter gave them when it was made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from graft_api.artifact import Probes
from graft_api.dataplane import BASE_NAME
from graft_api.fleet import LoadFailure, ProbeReading
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.vllm import Scored, Vllm, VllmAwayError

# Calibrated with the example's base and adapter (3 layers, rank 16, 40 tokens, effect 0.64 nats): vLLM 0.32 on CPU in bfloat16
# against references made by transformers and PEFT in bfloat16. `base deviation` there is 0.010, with float32 and float16 0.010;
# noise between two readings is 0 on an idle CPU.
#
#                                             share  residual
#     the adapter itself                       0.99      0.02   (float32, float16 by PEFT: 0.99, 0.014)
#     B = 0                                    0.00      0.00
#     half its alpha                           0.67      0.14   (0.8 of it: 0.91, 0.09; twice: 0.93, 1.47)
#     attention only / MLP only         0.56 / 0.56   0.40 / 0.60
#     every second module         0.13 and 0.82   0.26 and 0.68
#     one layer of three left out  0.44 0.61 0.97   0.48 0.35 0.14
#     without q_proj                           0.84      0.33
#
#     base deviation: weights rounded to 8 bits 0.010, to 4 bits 0.10; shaken by 1 % 0.018, by 10 % 0.13; another base 9.6
BASE_DEVIATION: Final = 0.2
"""Nats per token: twice what rounding the base to 4 bits does, a fiftieth of what another base does."""
SHARE_LOW: Final = 0.8
SHARE_HIGH: Final = 1.25
RESIDUAL: Final = 0.1
"""Four times that of the adapter itself, below that of a third of its layers missing."""
ERRORS: Final = 1.5
"""Where the base deviates or readings differ, that leaves a residual by itself: this many times as much is allowed beside RESIDUAL."""
MOST_RESIDUAL: Final = 0.6
"""Where more would have to be allowed, nothing can be told: half the modules leave 0.68 at a share that is not suspicious."""
SHARE_ERROR: Final = 0.05
"""Standard error up to which a share says anything: four of them lie between 1 and SHARE_LOW."""
MOST_TOKENS: Final = 96
"""Measured per reading, those with the largest reference effect: the rest would tell less and take longer."""


@dataclass(frozen=True)
class Reference:
    """The tokens to measure, and what base and adapter gave them."""

    scored: tuple[Scored, ...]
    base: tuple[float, ...]
    adapter: tuple[float, ...]


def reference(probes: Probes) -> Reference:
    """Return the tokens that tell most."""
    found = [
        (Scored((*probe.prompt_token_ids, *probe.continuation_token_ids[:place]), token), base, adapter)
        for probe in probes.probes
        for place, (token, base, adapter) in enumerate(
            zip(probe.continuation_token_ids, probe.base_logprobs, probe.adapter_logprobs, strict=True)
        )
        if math.isfinite(base) and math.isfinite(adapter)
    ]
    kept = sorted(found, key=lambda item: abs(item[2] - item[1]), reverse=True)[:MOST_TOKENS]
    return Reference(tuple(item[0] for item in kept), tuple(item[1] for item in kept), tuple(item[2] for item in kept))


async def measure(vllm: Vllm, name: str, wanted: Reference, salt: str) -> ProbeReading:
    """Ask base twice and adapter once, under salts of their own. Raises `VersionRefusedError` if vLLM does not, or never will."""
    try:
        # One after the other: on CPU, vLLM 0.32 answers base requests that share a batch with an adapter's with the weights of its
        # last slot (`torch_ops`: index -1), and what is wanted here is the base itself.
        first = await vllm.logprobs(BASE_NAME, wanted.scored, f"{salt}-1")
        adapter = await vllm.logprobs(name, wanted.scored, f"{salt}-2")
        second = await vllm.logprobs(BASE_NAME, wanted.scored, f"{salt}-3")
    except (VllmAwayError, TimeoutError) as error:
        raise VersionRefusedError(LoadFailure.PROBE_FAILED, f"vLLM did not answer the probes: {error or 'too slow'}") from error
    return reading(wanted, first, second, adapter)


def reading(wanted: Reference, first: Sequence[float], second: Sequence[float], adapter: Sequence[float]) -> ProbeReading:
    """Return the numbers of `ProbeReading` from three vectors of log-probabilities."""
    base = [(one + two) / 2 for one, two in zip(first, second, strict=True)]
    expected = _minus(wanted.adapter, wanted.base)
    found = _minus(adapter, base)
    length = math.sqrt(_dot(expected, expected))
    share = _dot(found, expected) / length**2 if length else 0.0
    rest = [value - share * other for value, other in zip(found, expected, strict=True)]
    return ProbeReading(
        share=share,
        residual=math.sqrt(_dot(rest, rest)) / length if length else 0.0,
        noise=_rms(_minus(first, second)),
        effect=_rms(expected),
        base_deviation=_rms(_minus(base, wanted.base)),
        tokens=len(expected),
    )


def judge(reading: ProbeReading) -> None:
    """
    Return if the adapter is ready to serve; raise `VersionRefusedError` if not.

    What cannot be blamed on the adapter comes first: readings that do not repeat (tried again), a base that is another, then
    references too weak to tell anything here.
    """
    clear = SHARE_ERROR * reading.effect * math.sqrt(reading.tokens)
    if reading.effect and reading.noise * math.sqrt(2) > clear:
        message = f"two readings of the base differ by {reading.noise:.3f} nats, beside an effect of {reading.effect:.3f}"
        raise VersionRefusedError(LoadFailure.PROBE_FAILED, message)
    if reading.base_deviation > BASE_DEVIATION:
        message = f"the base model's own tokens deviate by {reading.base_deviation:.3f} nats from the package's, more than {BASE_DEVIATION}"
        raise VersionRefusedError(LoadFailure.BASE_DIFFERS, f"{message}: check spec.baseModel, spec.server.dtype and quantisation")
    error = math.hypot(reading.base_deviation, reading.noise) * math.sqrt(2)  # of a difference of two readings
    allowed = math.hypot(RESIDUAL, ERRORS * error / reading.effect) if reading.effect else math.inf
    if error > clear or allowed > MOST_RESIDUAL:
        message = f"the package's effect of {reading.effect:.4f} nats on {reading.tokens} tokens cannot be told from {error:.4f} of noise"
        raise VersionRefusedError(LoadFailure.NO_EFFECT, message)
    said = f"share {reading.share:.2f} (from {SHARE_LOW} to {SHARE_HIGH}) and residual {reading.residual:.2f} (up to {allowed:.2f})"
    if abs(reading.share) <= 4 * SHARE_ERROR and reading.residual <= allowed:
        raise VersionRefusedError(LoadFailure.NO_EFFECT, f"answers are the base model's: {said} of the package's effect")
    if not SHARE_LOW <= reading.share <= SHARE_HIGH or reading.residual > allowed:
        raise VersionRefusedError(LoadFailure.WRONG_EFFECT, f"answers are not the adapter's own: {said} of the package's effect")


def _minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(left, right, strict=True)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(_dot(values, values) / len(values)) if values else 0.0
