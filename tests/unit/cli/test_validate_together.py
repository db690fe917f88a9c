"""`graft validate` of several manifests: what is held against each other, what is skipped, and what is wrong between them."""

import base64
from hashlib import sha256
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[3] / "examples" / "dsl"
LOOP = EXAMPLES / "loop"


def documents(name):
    return list(yaml.safe_load_all((LOOP / f"{name}.yaml").read_text()))


OBSERVED = {"name": "wrong", "observed": {"score": "compile"}, "window": "1h", "above": "0.03"}


class World:
    """The endpoint of the example with its policy and principles, changed, in one file each."""

    def __init__(self, folder):
        self.folder = folder
        (self.endpoint,), (self.policy,), (self.principles,) = map(documents, ("modelendpoint", "tuningpolicy", "principles"))
        self.domain = self.policy["spec"]["domains"][0]
        self.drift = self.endpoint["spec"]["domains"][0]["promotion"]["drift"]

    def write(self, **more):
        paths = []
        for name, document in {"endpoint": self.endpoint, "policy": self.policy, "principles": self.principles, **more}.items():
            paths.append(self.folder / f"{name}.yaml")
            paths[-1].write_text(yaml.safe_dump(document))
        return paths


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def errors(said):
    return [line.removeprefix("error: ") for line in said.splitlines() if line.startswith("error: ")]


def test_the_whole_loop_of_the_example_is_valid_with_its_foreign_kinds(graft):
    code, out, err = graft("validate", "-f", *sorted(LOOP.glob("*.yaml")))
    assert (code, out) == (0, "")
    assert err.splitlines() == [
        "skipped: rbac.authorization.k8s.io/v1 RoleBinding approvers: not a graft kind",
        "skipped: rbac.authorization.k8s.io/v1 RoleBinding readers: not a graft kind",
        "ModelEndpoint prod is valid",
        "TuningPolicy prod is valid",
        "ConfigMap principles has principles that can be asked",
        "not checked here: what is named, and whether it is there; Secrets, buckets, and scorers' own texts",
    ]


@pytest.mark.parametrize("name", ["approvers", "principles"])
def test_a_file_without_a_graft_kind_is_skipped(name, graft):
    code, out, err = graft("validate", "-f", LOOP / f"{name}.yaml")
    assert (code, out) == (0, "")
    assert {line.partition(":")[0] for line in err.splitlines()} == {"skipped"}


def test_what_is_skipped_hides_nothing_that_is_wrong(world, graft):
    world.policy["spec"]["intervall"] = "5m"
    code, _, err = graft("validate", "-f", *world.write(), "-f", LOOP / "approvers.yaml")
    assert code == 1
    assert errors(err) == [f"{world.folder}/policy.yaml: spec.intervall: Extra inputs are not permitted"]
    assert "skipped: rbac.authorization.k8s.io/v1 RoleBinding readers" in err


@pytest.mark.parametrize(
    ("version", "kind", "said"),
    [
        ("v1", "List", "and is List"),
        ("graft.dev/v1alpha1", "TuningPolicies", "and is TuningPolicies"),
        ("graft.io/v1alpha1", "TuningPolicy", "apiVersion: Input should be 'graft.dev/v1alpha1'"),
        (None, "ConfigMap", "and is ConfigMap"),
    ],
    ids=["a list may hold anything", "a misspelt kind", "a misspelt group", "no version"],
)
def test_what_may_be_meant_for_graft_is_not_skipped(world, graft, version, kind, said):
    world.policy |= {"apiVersion": version, "kind": kind}
    code, _, err = graft("validate", "-f", *world.write())
    assert code == 1
    assert "skipped: v1 List" not in err
    assert said in errors(err)[0]


CASES = {
    "the endpoint lacks the domain": (
        lambda world: world.domain.update(name="legal"),
        "policy.yaml: spec.domains[0].name: ModelEndpoint prod has no domain legal: add it to its spec.domains",
    ),
    "nobody observes the score": (
        lambda world: world.domain.update(criteria=[OBSERVED | {"observed": {"score": "compiles"}}]),
        "policy.yaml: spec.domains[0].criteria[0].observed.score: ModelEndpoint prod observes no score compiles of domain dsl: add it",
    ),
    "another domain's score": (
        lambda world: (
            world.endpoint["spec"]["domains"].append({"name": "other"}),
            world.endpoint["spec"]["domains"][0]["promotion"]["watch"].pop("metrics"),
            world.endpoint["spec"]["collector"]["observe"][0].update(domain="other"),
            world.domain.update(criteria=[OBSERVED]),
        ),
        "observes no score compile of domain dsl",
    ),
    "the score of a default criterion": (
        lambda world: (
            world.domain.pop("criteria"),
            world.endpoint["spec"]["domains"][0]["promotion"]["watch"].pop("metrics"),
            world.endpoint["spec"]["collector"]["observe"][0]["scores"][0].update(name="rules"),
        ),
        "criteria (by default compile-errors): ModelEndpoint prod observes no score compile of domain dsl",
    ),
    "a score that is a quantity": (
        lambda world: (
            world.endpoint["spec"]["collector"]["observe"][0]["scores"].append({"name": "slow", "measure": "Latency"}),
            world.domain.update(criteria=[OBSERVED, OBSERVED | {"name": "slow", "observed": {"score": "slow"}}]),
        ),
        "criteria[1].observed.score: score slow is Latency, which is neither right nor wrong: a criterion needs a scorer, or one of",
    ),
    "no collector": (
        lambda world: (
            world.endpoint["spec"].pop("collector"),
            world.endpoint["spec"]["domains"][0].pop("promotion"),
            world.domain.update(criteria=[OBSERVED]),
        ),
        "observes no score compile of domain dsl: it has no spec.collector",
    ),
    "an adapter of a rank that its servers refuse": (
        lambda world: (
            world.endpoint["spec"]["server"].update(maxLoraRank=8),
            world.domain["jobTemplate"]["spec"]["lora"].update(rank=32),
        ),
        "lora.rank: the servers of ModelEndpoint prod would refuse an adapter of rank 32: its spec.server.maxLoraRank is 8",
    ),
    "a template that the operator refuses": (
        lambda world: world.domain["jobTemplate"]["spec"].update(baseModel={"uri": "hf://someone/base"}),
        "policy.yaml: spec.domains[0].jobTemplate.spec.baseModel.uri: hf:// is not available in this version; copy it to s3://",
    ),
    "principles without a key": (
        lambda world: world.principles.update(data={"principles.yml": "a"}),
        "principles.yaml: ConfigMap principles has no text under the key principles.yaml of its data: begin it with `principles.yaml: |`",
    ),
    "principles that are no text": (
        lambda world: world.principles.update(data={"principles.yaml": {"principles": []}}),
        "ConfigMap principles has no text under the key principles.yaml",
    ),
    "two prompts of a principle": (
        lambda world: world.principles.update(data={"principles.yaml": "principles: [{name: a, prompts: [x, y]}]"}),
        "ConfigMap principles: principles.yaml: principles[0].prompts: List should have at least 3 items",
    ),
    "a prompt twice": (
        lambda world: world.principles.update(data={"principles.yaml": "principles: [{name: a, prompts: [x, y, x]}]"}),
        "ConfigMap principles: principles.yaml: two prompts of principle a are the same; ask in other words",
    ),
    "no YAML in the principles": (
        lambda world: world.principles.update(data={"principles.yaml": "a: ["}),
        "ConfigMap principles: principles.yaml is no YAML (line 1)",
    ),
    "principles of another digest": (
        lambda world: world.drift.update(principlesDigest="sha256:" + "0" * 64),
        "principles.yaml is not what promotion.drift.principlesDigest names; it has sha256:",
    ),
    "binary principles that are none": (
        lambda world: world.principles.update(binaryData={"principles.yaml": "%%"}, data=None),
        "ConfigMap principles: principles.yaml in binaryData is no base64",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_does_not_fit_together_is_named(case, world, graft):
    change, said = case
    change(world)
    code, out, err = graft("validate", "-f", *world.write())
    assert (code, out) == (1, "")
    (problem,) = errors(err)
    assert problem.startswith(str(world.folder))
    assert said in problem


def test_a_policy_and_principles_that_fit_are_valid(world, graft):
    text = world.principles["data"]["principles.yaml"]
    world.drift["principlesDigest"] = f"sha256:{sha256(text.encode()).hexdigest()}"
    world.principles |= {"data": None, "binaryData": {"principles.yaml": base64.b64encode(text.encode()).decode()}}
    del world.domain["criteria"]
    code, _, err = graft("validate", "-f", *world.write())
    assert (code, errors(err)) == (0, [])
    assert "ConfigMap principles has principles that can be asked" in err


@pytest.mark.parametrize("change", ["another namespace", "another endpoint"])
def test_what_names_something_else_is_not_held_against_it(world, graft, change):
    world.domain["name"], world.principles["data"] = "legal", {"principles.yaml": "a: ["}
    if change == "another namespace":
        world.endpoint["metadata"]["namespace"] = "elsewhere"
    else:
        world.policy["spec"]["endpointRef"]["name"] = "staging"
        world.drift["principles"] = "others"
    code, _, err = graft("validate", "-f", *world.write())
    assert (code, errors(err)) == (0, [])
    assert "skipped: v1 ConfigMap principles: not a graft kind" in err


@pytest.mark.parametrize(("enabled", "code"), [(True, 1), (False, 0)])
def test_two_policies_that_launch_for_one_domain(world, graft, enabled, code):
    second = yaml.safe_load(yaml.safe_dump(world.policy))
    second["metadata"]["name"], second["spec"]["enabled"] = "second", enabled
    done, _, err = graft("validate", "-f", *world.write(second=second))
    assert done == code
    told = "spec.domains[0].name: TuningPolicy prod launches for domain dsl of ModelEndpoint prod, too; leave it to one of them"
    assert errors(err) == ([f"{world.folder}/second.yaml: {told}"] if enabled else [])


def test_names_of_foreign_things_do_not_steer_a_terminal(world, graft):
    world.principles["metadata"]["name"] = "\x1b[31mred"
    _, _, err = graft("validate", "-f", *world.write())
    assert "\x1b" not in err
    assert "skipped: v1 ConfigMap" in err
