"""
`graft policy import`: a policy file in the form of global_policy.json, as a TuningPolicy.

Such a file says how often, but not when: the launch criteria are those of the domain. They are written out, so that who reads the
TuningPolicy sees by what it launches, and no later version's defaults change it.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from graft_api.criteria import DEFAULT_CRITERIA
from graft_api.finetunejob import FineTuneJob
from graft_api.measures import YES_OR_NO
from graft_api.promotion import WatchPolicy
from graft_api.schema import Invalid, parse
from graft_api.tuningpolicy import TuningPolicy
from graft_cli.run import job_of

T = TypeVar("T")
Manifest = dict[str, Any]


def _decimal(value: object) -> object:
    """A spec takes a decimal in a string."""
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


_Rate = Annotated[str, BeforeValidator(_decimal)]
_Whole = Annotated[int, Field(ge=1)]
_Days = Annotated[float, Field(gt=0)]


class _Settings(BaseModel):
    """Of each field a value for all domains, or a map from domain to value."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Qlora(_Settings):
    rank: _Whole | dict[str, _Whole] | None = None
    alpha: _Whole | dict[str, _Whole] | None = None
    learning_rate: _Rate | dict[str, _Rate] | None = None
    epochs: _Whole | dict[str, _Whole] | None = None


class GlobalPolicy(_Settings):
    """A policy file."""

    enabled: bool = False
    max_frequency_days: _Days | dict[str, _Days] | None = None
    min_dataset_size: _Whole | dict[str, _Whole] | None = None
    shadow_test_days: _Days | dict[str, _Days] | None = None
    auto_rollback_hours: _Days | dict[str, _Days] | None = None
    qlora: _Qlora = Field(default_factory=_Qlora)

    def domains(self) -> set[str]:
        """Return the domains that it names."""
        maps = [*(getattr(self, name) for name in GlobalPolicy.model_fields), *(getattr(self.qlora, name) for name in _Qlora.model_fields)]
        return {domain for value in maps if isinstance(value, dict) for domain in value}


def import_policy(options: Namespace) -> int:
    """Print the TuningPolicy, and what of the file belongs into the ModelEndpoint. Raises `Invalid`."""
    told, jobs = read_policy(options.file), [_job(path) for path in options.job]
    policy = converted(told, jobs, options.name or options.file.stem.lower().replace("_", "-"), options.endpoint)
    words = promotion_words(told, policy)
    yaml.safe_dump(policy.to_json(), sys.stdout, sort_keys=False, width=120)
    print(words, end="")
    for line in needed_scores(policy):
        print(line, file=sys.stderr)
    return 0


def read_policy(path: Path) -> GlobalPolicy:
    """Read a policy file. Raises `Invalid` that names each field."""
    try:
        return GlobalPolicy.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except ValidationError as error:
        raise Invalid([f"{path}: {_problem(one)}" for one in error.errors(include_url=False)]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid([f"{path}: {error}"]) from error


def _problem(error: Mapping[str, Any]) -> str:
    field = ".".join(str(part) for part in error["loc"] if part not in {"constrained-int", "constrained-float", "int", "float", "str"})
    if error["type"] == "extra_forbidden":
        known = _Qlora if field.startswith("qlora.") else GlobalPolicy
        return f"{field}: is no field of it; there are {', '.join(known.model_fields)}"
    return f"{field}: {error['msg']}" if field else str(error["msg"])


def converted(told: GlobalPolicy, jobs: Sequence[FineTuneJob], name: str, endpoint: str | None) -> TuningPolicy:
    """Return the TuningPolicy: a domain for each job, which says what the file does not (model, data, output). Raises `Invalid`."""
    by_domain = {job.spec.domain: job for job in jobs}
    if missing := sorted(told.domains() - set(by_domain)):
        raise Invalid([f"--job: the file has domain {domain}: name a FineTuneJob of it, for model, data and output" for domain in missing])
    if len(by_domain) < len(jobs):
        raise Invalid(["--job: two of the FineTuneJobs are of one domain: name one for each"])
    if bare := sorted(set(by_domain) - set(DEFAULT_CRITERIA)):
        known = ", ".join(sorted(DEFAULT_CRITERIA))
        raise Invalid(
            [f"--job: domain {domain} has no launch criteria of its own ({known} have): write its TuningPolicy" for domain in bare]
        )
    document = {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": "TuningPolicy",
        "metadata": {"name": name},
        "spec": {
            "endpointRef": {"name": endpoint or _endpoint(jobs)},
            "enabled": told.enabled,
            "domains": [_domain(told, domain, job) for domain, job in by_domain.items()],
        },
    }
    return parse(TuningPolicy, document)


def _endpoint(jobs: Sequence[FineTuneJob]) -> str:
    named = {job.spec.adapter.endpoint_ref.name for job in jobs if job.spec.adapter}
    if len(named) != 1:
        raise Invalid(["--endpoint: name the ModelEndpoint; the FineTuneJobs' spec.adapter.endpointRef does not say which one"])
    return named.pop()


def _domain(told: GlobalPolicy, domain: str, job: FineTuneJob) -> Manifest:
    days = of(told.max_frequency_days, domain)
    cooldown = {"cooldown": hours(24 * days, "max_frequency_days")} if days is not None else {}
    criteria = [criterion.to_json() for criterion in DEFAULT_CRITERIA[domain]]
    return {"name": domain, "criteria": criteria, **cooldown, "jobTemplate": {"spec": _template(told, domain, job)}}


def _template(told: GlobalPolicy, domain: str, job: FineTuneJob) -> Manifest:
    """Return the job's spec with what the file says over it."""
    spec: Manifest = {key: value for key, value in job.spec.to_json().items() if key not in {"domain", "adapter", "suspend"}}
    if job.spec.adapter is not None and not job.spec.adapter.promote:
        spec["adapter"] = job.spec.adapter.to_json()
    over: dict[str, Manifest] = {
        "lora": {"rank": of(told.qlora.rank, domain), "alpha": of(told.qlora.alpha, domain)},
        "training": {"epochs": of(told.qlora.epochs, domain), "learningRate": of(told.qlora.learning_rate, domain)},
        "dataset": {"minExamples": of(told.min_dataset_size, domain)},
    }
    for part, values in over.items():
        if said := {key: value for key, value in values.items() if value is not None}:
            spec[part] = spec.get(part, {}) | said
    return spec


def needed_scores(policy: TuningPolicy) -> Iterator[str]:
    """Say what the endpoint must measure, or the criteria are Unknown and nothing is ever launched."""
    endpoint, kinds = policy.spec.endpoint_ref.name, ", ".join(sorted(YES_OR_NO))
    for domain in policy.spec.domains:
        for criterion in domain.judged_by():
            if criterion.observed is not None:
                asked = f"domain {domain.name}: criterion {criterion.name} reads score {criterion.observed.score}"
                yield f"{asked}: add it to spec.collector.observe of ModelEndpoint {endpoint}, as a scorer or one of {kinds}"


def promotion_words(told: GlobalPolicy, policy: TuningPolicy) -> str:
    """Return, as comments, what belongs into the ModelEndpoint: it needs metrics and approvers, of which the file says nothing."""
    lines = []
    for domain in policy.spec.domains:
        days, back = of(told.shadow_test_days, domain.name), of(told.auto_rollback_hours, domain.name)
        if days is None and back is None:
            continue
        lines += [f"#   - name: {domain.name}", "#     promotion:"]
        if days is not None:
            lines.append(f"#       shadow: {{duration: {hours(24 * days, 'shadow_test_days', most=2160)}}}")
        if back is not None:
            window = hours(back, "auto_rollback_hours", most=2160)
            _check_window(window)
            lines.append(f"#       watch: {{window: {window}}}")
    if not lines:
        return ""
    endpoint = policy.spec.endpoint_ref.name
    head = f"# Of the file, this belongs into ModelEndpoint {endpoint}, beside the metrics and approvers of promotion (docs/tuning.md):"
    return "\n".join([head, "# spec:", "#   domains:", *lines, ""])


def _check_window(window: str) -> None:
    try:
        WatchPolicy(window=window)
    except ValidationError as error:
        raise Invalid([f"auto_rollback_hours: {problem}" for problem in Invalid.of(error).problems]) from error


def of(value: T | dict[str, T] | None, domain: str) -> T | None:
    """Return the value of a domain: the one of all, or its own."""
    return value.get(domain) if isinstance(value, dict) else value


def hours(number: float, field: str, most: float = 8760) -> str:
    """Return a length of time as Kubernetes objects here have it, such as 1440h or 36h30m. Raises `Invalid`."""
    minutes = round(number * 60)
    if not 1 <= minutes <= most * 60:
        raise Invalid([f"{field}: {number:g} hours must be between one minute and {most / 24:g} days"])
    whole, rest = divmod(minutes, 60)
    return f"{whole}h" * bool(whole) + f"{rest}m" * bool(rest)


def _job(path: Path) -> FineTuneJob:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid([f"{path}: {error}"]) from error
    try:
        return job_of(json.loads(json.dumps(document, default=str)))
    except Invalid as invalid:
        raise Invalid([f"{path}: {problem}" for problem in invalid.problems]) from invalid
