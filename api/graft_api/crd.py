"""
Generate the CRDs in `crds/` from the models: `python -m graft_api.crd <folder>`.

The models are the source; the files are checked in and `make verify` fails when they differ. A structural schema knows no
`$ref`, no `anyOf null`, no numeric `exclusiveMinimum` and needs a bound on everything that CEL may walk through.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from graft_api.adapter import Adapter
from graft_api.approval import AdapterApproval
from graft_api.finetunejob import FineTuneJob
from graft_api.modelendpoint import ModelEndpoint
from graft_api.shadowtest import ShadowTest
from graft_api.tuningpolicy import TuningPolicy

GROUP = "graft.dev"
VERSION = "v1alpha1"

Schema = dict[str, Any]

SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}

DROPPED = {"title", "additionalProperties", "discriminator", "propertyNames"}


@dataclass(frozen=True)
class Kind:
    """One custom resource: its model and how `kubectl` shows it."""

    model: type[BaseModel]
    plural: str
    short_names: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]
    """Name, type, JSON path."""
    selectable: tuple[str, ...] = ()
    reconciled: bool = False
    """Has a status; a new object shows observedGeneration -1 so that nobody takes it for done."""
    scaled: bool = False
    """Has the scale subresource, for `kubectl scale` and autoscalers."""


KINDS = (
    Kind(
        FineTuneJob,
        "finetunejobs",
        ("ftj",),
        (
            ("Domain", "string", ".spec.domain"),
            ("Phase", "string", ".status.phase"),
            ("Stage", "string", ".status.progress.stage"),
            ("Progress", "integer", ".status.progress.percent"),
            ("Attempt", "integer", ".status.attempt"),
            ("Accepted", "string", ".status.conditions[?(@.type=='Accepted')].status"),
            ("Age", "date", ".metadata.creationTimestamp"),
            ("Message", "string", ".status.conditions[?(@.type=='Ready')].message"),
        ),
        selectable=(".status.phase", ".spec.domain"),
        reconciled=True,
    ),
    Kind(
        Adapter,
        "adapters",
        ("ada",),
        (
            ("Domain", "string", ".spec.domain"),
            ("Endpoint", "string", ".spec.endpointRef.name"),
            ("Phase", "string", ".status.phase"),
            ("Loaded", "integer", ".status.replicas.ready"),
            ("Of", "integer", ".status.replicas.total"),
            ("Promotion", "string", ".status.promotion.state"),
            ("Promoted", "string", ".status.conditions[?(@.type=='Promoted')].status"),
            ("Digest", "string", ".spec.artifact.digest"),
            ("Age", "date", ".metadata.creationTimestamp"),
            ("Message", "string", ".status.conditions[?(@.type=='Ready')].message"),
        ),
        selectable=(".status.phase", ".spec.domain", ".spec.endpointRef.name"),
        reconciled=True,
    ),
    Kind(
        ModelEndpoint,
        "modelendpoints",
        ("mep",),
        (
            ("Phase", "string", ".status.phase"),
            ("Servers", "integer", ".status.readyReplicas"),
            ("Of", "integer", ".status.replicas"),
            ("Gateways", "integer", ".status.readyGateways"),
            ("Revision", "integer", ".status.revision"),
            ("URL", "string", ".status.url"),
            ("Age", "date", ".metadata.creationTimestamp"),
            ("Message", "string", ".status.conditions[?(@.type=='Ready')].message"),
        ),
        selectable=(".status.phase",),
        reconciled=True,
        scaled=True,
    ),
    Kind(
        ShadowTest,
        "shadowtests",
        ("sht",),
        (
            ("Adapter", "string", ".spec.adapterRef.name"),
            ("Phase", "string", ".status.phase"),
            ("Hours", "string", ".status.elapsed"),
            ("Of", "string", ".spec.duration"),
            ("Conversations", "integer", ".status.conversations"),
            ("Pairs", "integer", ".status.pairs"),
            ("Age", "date", ".metadata.creationTimestamp"),
            ("Message", "string", ".status.conditions[?(@.type=='Ready')].message"),
        ),
        selectable=(".status.phase", ".spec.adapterRef.name"),
        reconciled=True,
    ),
    Kind(
        AdapterApproval,
        "adapterapprovals",
        ("aap",),
        (
            ("Adapter", "string", ".spec.adapterRef.name"),
            ("Decision", "string", ".spec.decision"),
            ("Author", "string", ".spec.author.username"),
            ("Age", "date", ".metadata.creationTimestamp"),
            ("Digest", "string", ".spec.digest"),
        ),
        selectable=(".spec.adapterRef.name", ".spec.digest"),
    ),
    Kind(
        TuningPolicy,
        "tuningpolicies",
        ("tp",),
        (
            ("Endpoint", "string", ".spec.endpointRef.name"),
            ("Enabled", "boolean", ".spec.enabled"),
            ("Phase", "string", ".status.phase"),
            ("Running", "integer", ".status.running"),
            ("Launches", "integer", ".status.launches"),
            ("Read", "date", ".status.evaluatedAt"),
            ("Age", "date", ".metadata.creationTimestamp"),
            ("Message", "string", ".status.conditions[?(@.type=='Ready')].message"),
        ),
        selectable=(".status.phase", ".spec.endpointRef.name"),
        reconciled=True,
    ),
)


def definition(kind: Kind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of one kind."""
    name = kind.model.__name__
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root_schema(kind)},
        "additionalPrinterColumns": [_column(*column) for column in kind.columns],
        "selectableFields": [{"jsonPath": path} for path in kind.selectable],
    }
    if kind.reconciled:
        version["subresources"] = {"status": {}} | ({"scale": SCALE} if kind.scaled else {})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": list(kind.short_names),
                "categories": ["graft"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def root_schema(kind: Kind) -> Schema:
    """Return the structural schema of the whole object."""
    full = kind.model.model_json_schema(by_alias=True)
    schema = structural(full, full.get("$defs", {}))
    properties = schema["properties"]
    properties["apiVersion"], properties["kind"], properties["metadata"] = {"type": "string"}, {"type": "string"}, {"type": "object"}
    schema["required"] = ["spec"]
    if kind.reconciled:
        properties["status"] = unruled(properties["status"]) | {"default": {"observedGeneration": -1}}
    return schema


def unruled(node: Schema) -> Schema:
    """Return a schema without its rules: the operator alone writes a status, from models that know them, and rules have a budget."""
    result = {key: value for key, value in node.items() if key != "x-kubernetes-validations"}
    if "properties" in node:
        result["properties"] = {name: unruled(value) for name, value in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in node:
            result[key] = unruled(node[key])
    return result


def structural(node: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return a JSON schema as the API server wants it: inlined, without null branches and titles."""
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return structural({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "anyOf" in node:
        # `X | None`: the API server prunes nulls of fields that are not nullable, so absent is the only null.
        (branch,) = [option for option in node["anyOf"] if option.get("type") != "null"]
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return structural({**branch, **rest}, definitions)
    result = {key: value for key, value in node.items() if key not in DROPPED and key != "$defs"}
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if result.get("default", ...) in (None, [], ""):
        del result["default"]
    for bound, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in result:  # a number in JSON Schema, a flag beside the bound in OpenAPI 3.0
            result |= {inclusive: result[bound], bound: True}
    if "properties" in node:
        result["properties"] = {name: structural(value, definitions) for name, value in node["properties"].items()}
    elif isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = structural(node["additionalProperties"], definitions)
    if "items" in node:
        result["items"] = structural(node["items"], definitions)
    return _with_list_type(result)


def _with_list_type(schema: Schema) -> Schema:
    """Conditions merge by type, suites by name, so that two appliers do not overwrite each other's entries."""
    if schema.get("type") == "array" and schema["items"].get("type") == "object":
        required = schema["items"].get("required", [])
        for key in ("name", "type", "suite"):
            # A volume may be mounted twice, and a metric stand in two contrasts.
            if key in required and not {"mountPath", "contrast"} & set(required):
                return schema | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return schema


def _column(name: str, kind: str, path: str) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": 1} if name in {"Message", "Digest"} else {})


def to_yaml(value: object, indent: int = 0) -> str:
    """Write block YAML whose scalars are JSON: the standard library is all that api/ may use."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_child(item, indent + 1)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_child(item, indent + 1)}" for item in value)
    return f"{pad}{json.dumps(value, ensure_ascii=False)}\n"


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("$", "").isalnum() and key not in {"default", "enum", "null"} else json.dumps(key)


def _child(value: object, indent: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + to_yaml(value, indent)
    return " " + to_yaml(value).lstrip()


def write(folder: Path) -> None:
    """Write one file a kind."""
    for kind in KINDS:
        header = f"# Generated from {kind.model.__module__} by `make verify`. Do not edit.\n"
        (folder / f"{GROUP}_{kind.plural}.yaml").write_text(header + to_yaml(definition(kind)))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
