"""
Whether a TuningPolicy can launch anything for a ModelEndpoint, and whether that can serve there, as far as their specs say.

What else keeps a launch (a Prometheus that is away, a criterion that is not met) shows in the policy's status alone.
"""

from collections.abc import Iterator

from graft_api.collect import ObservedScore
from graft_api.measures import YES_OR_NO
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.resolve import resolve
from graft_api.schema import Invalid
from graft_api.tuningpolicy import PolicyDomain, TuningPolicySpec


def problems(policy: TuningPolicySpec, endpoint: ModelEndpointSpec) -> list[str]:
    """Return what does not fit, as sentences that begin with a field of the policy. `endpoint`: the one that it names."""
    name, domains = policy.endpoint_ref.name, {domain.name for domain in endpoint.domains}
    found: list[str] = []
    for place, domain in enumerate(policy.domains):
        if domain.name not in domains:
            lacks = [f"name: {no_domain(name, domain.name)}"]
        else:
            lacks = [*_unmeasured(name, endpoint, domain), *_too_large(name, endpoint, domain)]
        found += [f"spec.domains[{place}].{lack}" for lack in lacks]
    return found


def no_domain(endpoint: str, domain: str) -> str:
    """Say that an endpoint lacks the domain of a policy."""
    return f"ModelEndpoint {endpoint} has no domain {domain}: add it to its spec.domains"


def _unmeasured(name: str, endpoint: ModelEndpointSpec, domain: PolicyDomain) -> Iterator[str]:
    observed = endpoint.collector.observe if endpoint.collector else []
    scores = {score.name: score for one in observed if one.domain == domain.name for score in one.scores}
    for place, criterion in enumerate(domain.judged_by()):
        if criterion.observed is None:
            continue
        # Criteria that are the domain's defaults stand nowhere in the spec.
        where = f"criteria[{place}].observed.score" if domain.criteria is not None else f"criteria (by default {criterion.name})"
        score = criterion.observed.score
        if score not in scores:
            advice = "add it to its spec.collector.observe" if endpoint.collector else "it has no spec.collector"
            yield f"{where}: ModelEndpoint {name} observes no score {score} of domain {domain.name}: {advice}"
        elif not scores[score].is_share():
            yield f"{where}: {_quantity(scores[score])}"


def _quantity(score: ObservedScore) -> str:
    wanted = f"a criterion needs a scorer, or one of {', '.join(sorted(YES_OR_NO))}"
    return f"score {score.name} is {score.measure}, which is neither right nor wrong: {wanted}"


def _too_large(name: str, endpoint: ModelEndpointSpec, domain: PolicyDomain) -> Iterator[str]:
    try:
        lora = resolve(domain.job(name)).lora
    except Invalid:
        return  # `PolicyDomain.template_problems` says why
    if lora is not None and (lora.rank or 0) > endpoint.rank():
        least = f"its spec.server.maxLoraRank is {endpoint.rank()}"
        yield f"jobTemplate.spec.lora.rank: the servers of ModelEndpoint {name} would refuse an adapter of rank {lora.rank}: {least}"
