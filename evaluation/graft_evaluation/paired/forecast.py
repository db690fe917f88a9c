"""How long until the test can tell, at the traffic so far."""

from statistics import NormalDist

from graft_api.comparison import Estimate, Metric, Role
from graft_evaluation.paired.student import normal

POWER = 0.8


def hours_to_detect(metric: Metric, estimate: Estimate, hours: float) -> float | None:
    """
    Return the hours from the start until the effect in question is detected with 80 % power; None where there is no such effect.

    The usual sample size n = (z_{1-alpha} + z_{1-beta})^2 sigma^2 / delta^2 (Chow, Shao, Wang and Lokhnygina 2018, Sample Size
    Calculations in Clinical Research, section 3.1.2), with conversations arriving evenly: the variance of the estimate falls as
    1 / time. The effect is, of a guardrail, its whole margin (the candidate being equal); of a primary, how far its `detectable`
    improvement lies beyond its margin; of any other, its `detectable`.
    """
    effect = _effect(metric)
    if effect is None or hours <= 0 or estimate.high == estimate.low:
        return None
    error = (estimate.high - estimate.low) / 2 / normal()
    needed = effect / (normal() + NormalDist().inv_cdf(POWER))
    return hours * (error / needed) ** 2


def _effect(metric: Metric) -> float | None:
    if metric.role is Role.GUARDRAIL:
        return metric.margin or None
    if metric.detectable is None:
        return None
    beyond = metric.detectable - (metric.margin if metric.role is Role.PRIMARY else 0.0)
    return beyond if beyond > 0 else None
