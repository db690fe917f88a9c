"""The checked-in CRDs are what the models generate, and what the API server can work with."""

from pathlib import Path

import pytest
import yaml

from graft_api import crd, reference

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="module", params=crd.KINDS, ids=lambda kind: kind.model.__name__)
def kind(request):
    return request.param


def nodes(schema, path=""):
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def test_what_is_checked_in_is_what_is_generated(kind):
    file = CRDS / f"graft.dev_{kind.plural}.yaml"
    assert yaml.safe_load(file.read_text()) == crd.definition(kind), "run: make generate"


def test_the_schema_is_structural(kind):
    for path, node in nodes(crd.root_schema(kind)):
        assert not {"$ref", "anyOf", "allOf", "title", "propertyNames", "const"} & set(node), path
        for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            assert node.get(flag, True) is True, f"{path}: a flag in OpenAPI 3.0"
            assert flag not in node or bound in node, path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_everything_that_a_rule_may_walk_through_is_bounded(kind):
    for path, node in nodes(crd.root_schema(kind)):
        if path in {".apiVersion", ".kind", ".metadata"}:
            continue
        if node.get("type") == "string":
            assert {"maxLength", "enum", "format"} & set(node), path
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_a_volume_may_be_mounted_twice():
    schema = crd.root_schema(crd.KINDS[0])
    mounts = schema["properties"]["spec"]["properties"]["podTemplate"]["properties"]["volumeMounts"]
    assert "x-kubernetes-list-type" not in mounts


def test_a_metric_may_be_judged_in_two_contrasts():
    schema = crd.root_schema(next(kind for kind in crd.KINDS if kind.plural == "shadowtests"))
    judged = schema["properties"]["status"]["properties"]["verdict"]["properties"]["metrics"]
    assert "x-kubernetes-list-type" not in judged


def test_no_bound_of_an_integer_is_beyond_what_the_api_server_compares_exactly(kind):
    """Beyond 2^53 it compares as float64; 2^63 overflows, and then every value is refused."""
    for path, node in nodes(crd.root_schema(kind)):
        if node.get("type") == "integer":
            assert all(abs(node.get(bound, 0)) <= 2**53 for bound in ("minimum", "maximum")), path


def test_the_reference_names_every_kind():
    text = reference.reference()
    assert all(f"## {kind.model.__name__}" in text for kind in crd.KINDS)
    assert "`spec.lora.rank` | integer | ≥ 1, ≤ 512" in text
