"""`graft policy import` on the mission's own values; and what it says of files that are none."""

import json
import sys

import pytest
import yaml

from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.resolve import resolve
from graft_api.schema import Invalid, parse
from graft_api.tuningpolicy import TuningPolicy, TuningPolicyStatus
from graft_cli.launching import launch
from graft_cli.main import main
from graft_cli.policy import hours

MISSION = {
    "enabled": False,
    "max_frequency_days": 60,
    "min_dataset_size": {"dsl": 5000, "governance": 1000, "multimodal": 10000},
    "shadow_test_days": 7,
    "auto_rollback_hours": 48,
    "qlora": {"rank": 64, "alpha": 128, "learning_rate": 2e-4, "epochs": {"dsl": 3, "governance": 5, "multimodal": 2}},
}


def job(domain, **spec):
    return {
        "apiVersion": "graft.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": f"{domain}-by-hand"},
        "spec": {
            "domain": domain,
            "baseModel": {"uri": "s3://models/base"},
            "dataset": {"sources": [{"uri": f"s3://data/{domain}.jsonl"}]},
            "evaluation": {"suites": [{"name": "compile", "scorer": {"cel": {}}}]},
            "output": {"uri": "s3://adapters"},
            "signing": {"secretRef": {"name": "signing-key"}},
            "adapter": {"endpointRef": {"name": "prod"}},
        }
        | spec,
    }


class Run:
    def __init__(self, folder, monkeypatch, capsys):
        self.folder, self.patch, self.capsys = folder, monkeypatch, capsys

    def __call__(self, policy, *jobs, more=()):
        file = self.folder / "global_policy.json"
        file.write_text(policy if isinstance(policy, str) else json.dumps(policy))
        arguments = []
        for number, one in enumerate(jobs):
            path = self.folder / f"job-{number}.yaml"
            path.write_text(yaml.safe_dump(one))
            arguments += ["--job", str(path)]
        self.patch.setattr(sys, "argv", ["graft", "policy", "import", str(file), *arguments, *more])
        code = main()
        said = self.capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    return Run(tmp_path, monkeypatch, capsys)


def test_the_missions_own_values(run):
    code, out, _ = run(MISSION, job("dsl"), job("governance"), job("multimodal"))
    assert code == 0
    policy = parse(TuningPolicy, yaml.safe_load(out))
    assert (policy.metadata["name"], policy.spec.enabled, policy.spec.endpoint_ref.name) == ("global-policy", False, "prod")
    found = {domain.name: (domain.cooldown, resolve(domain.job("prod"))) for domain in policy.spec.domains}
    assert {name: cooldown for name, (cooldown, _) in found.items()} == dict.fromkeys(found, "1440h")
    assert {name: one.dataset.min_examples for name, (_, one) in found.items()} == {"dsl": 5000, "governance": 1000, "multimodal": 10000}
    assert {name: one.training.epochs for name, (_, one) in found.items()} == {"dsl": 3, "governance": 5, "multimodal": 2}
    for _, one in found.values():
        assert (one.lora.rank, one.lora.alpha, float(one.training.learning_rate)) == (64, 128, 2e-4)
        assert one.adapter.endpoint_ref.name == "prod"


def test_the_criteria_that_it_relies_on_stand_in_it(run):
    _, out, err = run(MISSION, job("dsl"), job("governance"), job("multimodal"))
    written = {domain["name"]: domain["criteria"] for domain in yaml.safe_load(out)["spec"]["domains"]}
    assert [
        (domain, one["observed"]["score"], one["observed"]["metric"], one["window"], one.get("above"), one.get("below"), one["minSamples"])
        for domain, criteria in written.items()
        for one in criteria
    ] == [
        ("dsl", "compile", "error_rate", "168h", "0.03", None, 500),
        ("governance", "tautologies", "error_rate", "720h", "0.35", None, 500),
        ("multimodal", "deepfake-fpr", "error_rate", "720h", "0.03", None, 500),
        ("multimodal", "watermark", "accuracy", "720h", None, "0.95", 500),
    ]
    kinds = "as a scorer or one of Refusal, ServerError, ToolCallValidity"
    assert err.splitlines() == [
        f"domain {domain}: criterion {criterion} reads score {score}: add it to spec.collector.observe of ModelEndpoint prod, {kinds}"
        for domain, criterion, score in (
            ("dsl", "compile-errors", "compile"),
            ("governance", "tautologies", "tautologies"),
            ("multimodal", "deepfake-fpr", "deepfake-fpr"),
            ("multimodal", "watermark", "watermark"),
        )
    ]


def test_what_it_prints_is_what_validate_asks_the_endpoint_for(run, tmp_path, monkeypatch, capsys):
    scores = {"dsl": ["compile"], "governance": ["tautologies"], "multimodal": ["deepfake-fpr", "watermark"]}
    suites = {domain: {"suites": [{"name": name, "scorer": {"cel": {}}} for name in names]} for domain, names in scores.items()}
    _, out, _ = run(MISSION, *(job(domain, evaluation=evaluation) for domain, evaluation in suites.items()))
    (tmp_path / "policy.yaml").write_text(out)
    observe = [{"domain": domain, "scores": evaluation["suites"]} for domain, evaluation in suites.items()]
    spec = {"baseModel": {"uri": "s3://m/b"}, "gateway": {"anonymous": True}, "domains": [{"name": name} for name in scores]}
    body = {"apiVersion": "graft.dev/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": "prod"}}
    for observed, code in ((observe, 0), (observe[::2], 1)):
        endpoint = body | {"spec": spec | {"collector": {"store": "s3://c/d", "observe": observed}}}
        (tmp_path / "endpoint.yaml").write_text(yaml.safe_dump(endpoint))
        monkeypatch.setattr(sys, "argv", ["graft", "validate", "-f", *(str(tmp_path / f"{name}.yaml") for name in ("policy", "endpoint"))])
        assert main() == code
    assert "observes no score tautologies of domain governance" in capsys.readouterr().err


def test_what_belongs_into_the_endpoint_is_a_comment_that_fits_there(run):
    _, out, _ = run(MISSION, job("dsl"), job("governance"), job("multimodal"))
    comments = "\n".join(
        line.removeprefix("# ") for line in out.splitlines() if line.startswith("# ") and not line.startswith("# Of the file")
    )
    written = yaml.safe_load(comments)["spec"]["domains"]
    assert [domain["name"] for domain in written] == ["dsl", "governance", "multimodal"]
    metric = {"metric": {"name": "m", "kind": "Proportion", "direction": "LowerIsBetter", "role": "Primary"}, "measure": "Refusal"}
    for domain in written:
        assert domain["promotion"] == {"shadow": {"duration": "168h"}, "watch": {"window": "48h"}}
        domain["promotion"]["shadow"]["metrics"] = [metric]
        domain["promotion"]["approval"] = {"users": ["jane"]}
    endpoint = {"baseModel": {"uri": "s3://m/b"}, "gateway": {"anonymous": True}, "collector": {"store": "s3://c/d"}, "domains": written}
    promotion = parse(ModelEndpointSpec, endpoint).domains[0].promotion
    assert (promotion.shadow.duration, promotion.watch.window) == ("168h", "48h")


def test_one_value_is_every_domains_and_what_is_left_out_stays_the_jobs(run):
    policy = {"enabled": True, "min_dataset_size": 2000, "qlora": {"rank": 8}}
    _, out, _ = run(
        policy, job("dsl", lora={"rank": 32, "alpha": 16}, training={"epochs": 9}), more=["--name", "mine", "--endpoint", "other"]
    )
    spec = parse(TuningPolicy, yaml.safe_load(out)).spec
    template = spec.domains[0].job_template.spec
    assert (spec.enabled, spec.endpoint_ref.name, spec.domains[0].cooldown) == (True, "other", "1440h")
    assert (template.lora.rank, template.lora.alpha, template.training.epochs, template.dataset.min_examples) == (8, 16, 9, 2000)
    assert template.domain is None
    assert "#" not in out


@pytest.mark.parametrize(
    ("policy", "jobs", "words"),
    [
        ({"frequency": 3}, ["dsl"], "frequency: is no field of it; there are enabled, max_frequency_days"),
        ({"qlora": {"r": 3}}, ["dsl"], "qlora.r: is no field of it; there are rank, alpha"),
        ({"enabled": "yes"}, ["dsl"], "enabled: Input should be a valid boolean"),
        ({"max_frequency_days": 0}, ["dsl"], "max_frequency_days: Input should be greater than 0"),
        ({"max_frequency_days": 400}, ["dsl"], "max_frequency_days: 9600 hours must be between one minute and 365 days"),
        ({"shadow_test_days": 91}, ["dsl"], "shadow_test_days: 2184 hours must be between one minute and 90 days"),
        ({"min_dataset_size": {"legal": 3}}, ["dsl"], "the file has domain legal: name a FineTuneJob of it"),
        ({}, ["legal"], "domain legal has no launch criteria of its own"),
        ({}, ["dsl", "dsl"], "two of the FineTuneJobs are of one domain"),
        ({"qlora": {"rank": 4096}}, ["dsl"], "jobTemplate.spec.lora.rank"),
        ("{", ["dsl"], "Invalid JSON"),
        ("[]", ["dsl"], "should be an object"),
    ],
)
def test_bad_files_are_refused_with_field_and_advice(run, policy, jobs, words):
    code, out, err = run(policy, *(job(domain) for domain in jobs))
    assert (code, out) == (1, "")
    assert words in err


def test_an_endpoint_that_nobody_names_is_asked_for(run):
    one = job("dsl")
    del one["spec"]["adapter"]
    _, _, err = run({}, one)
    assert "--endpoint: name the ModelEndpoint" in err


@pytest.mark.parametrize(("given", "length"), [(1440, "1440h"), (0.5, "30m"), (36.5, "36h30m"), (1 / 60, "1m")])
def test_lengths_of_time(given, length):
    assert hours(given, "x") == length


class TestLaunch:
    """kubectl is a program of the test's that answers from a file and keeps what it is told."""

    @pytest.fixture
    def kubectl(self, tmp_path, monkeypatch):
        program = tmp_path / "kubectl"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {tmp_path}/said\n[ "$1" = get ] && cat {tmp_path}/policy.json\nexit 0\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return tmp_path

    def ask(self, folder, status, domain="governance", names=("dsl", "governance")):
        from argparse import Namespace

        spec = {"domains": [{"name": name} for name in names]}
        (folder / "policy.json").write_text(json.dumps({"metadata": {"name": "tuning"}, "spec": spec, "status": status}))
        return launch(Namespace(policy="tuning", domain=domain, namespace="team", context=None))

    def waiting(self):
        met = {"name": "tautologies", "result": "Met", "sentence": "40 % is above 35 %"}
        told = {"name": "governance", "decision": "AwaitingApproval", "awaiting": 4, "criteria": [met]}
        return parse(TuningPolicyStatus, {"domains": [{"name": "dsl"}, told]}).to_json()

    def test_the_ordinal_that_waits_is_written_where_the_domain_stands(self, kubectl, capsys, monkeypatch):
        spec = {"domains": [{"name": "dsl"}, {"name": "governance"}]}
        (kubectl / "policy.json").write_text(json.dumps({"metadata": {"name": "tuning"}, "spec": spec, "status": self.waiting()}))
        monkeypatch.setattr(sys, "argv", ["graft", "policy", "launch", "tuning", "governance", "-n", "team"])
        assert main() == 0
        patch = (kubectl / "said").read_text().splitlines()[-1]
        assert patch.startswith("patch tuningpolicies.graft.dev --namespace team --type=json")
        operations = json.loads(patch[patch.index("[") : patch.rindex("]") + 1])
        assert operations == [
            {"op": "test", "path": "/spec/domains/1/name", "value": "governance"},
            {"op": "add", "path": "/spec/domains/1/launchApproved", "value": 4},
        ]
        assert "launch 4 of domain governance may be done: tautologies: 40 % is above 35 %" in capsys.readouterr().out

    def test_what_does_not_wait_is_not_approved(self, kubectl):
        with pytest.raises(Invalid, match="no launch of domain dsl waits for approval"):
            self.ask(kubectl, self.waiting(), "dsl")
        assert len((kubectl / "said").read_text().splitlines()) == 1
        with pytest.raises(Invalid, match=r"spec\.domains has no governance"):
            self.ask(kubectl, self.waiting(), names=("dsl",))


def test_the_example_is_valid(monkeypatch, capsys):
    from pathlib import Path

    example = Path(__file__).parents[3] / "examples/dsl/tuningpolicy.yaml"
    monkeypatch.setattr(sys, "argv", ["graft", "validate", "-f", str(example)])
    assert main() == 0
    assert "TuningPolicy prod is valid" in capsys.readouterr().err
    spec = parse(TuningPolicy, yaml.safe_load(example.read_text())).spec
    assert spec.domains[0].judged_by()[0].observed.score == "compile"
