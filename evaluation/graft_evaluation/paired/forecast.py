"""How long until the test can tell, at the traffic so far."""

from statistics import NormalDist

from graft_api.comparison import Estimate, Metric
from graft_evaluation.paired.student import normal

POWER = 0.8


def hours_to_detect(metric: Metric, estimate: Estimate, hours: float) -> float | None:
    """
    Return the hours from the start until the effect in question is detected with 80 % power; None where there is no such effect.

    The usual sample size n = (z_{1-alpha} + z_{1-beta})^2 sigma^2 / delta^2 (Chow, Shao, Wang and Lokhnygina 2018, Sample Size
    Calculations in Clinical Research, section 3.1.2), with conversations arriving evenly: the variance of the estimate falls as
    1 / time.
    """
    effect = metric.in_question()
    if effect is None or hours <= 0 or estimate.high == estimate.low:
        return None
    error = (estimate.high - estimate.low) / 2 / normal()
    needed = effect / (normal() + NormalDist().inv_cdf(POWER))
    return hours * (error / needed) ** 2
