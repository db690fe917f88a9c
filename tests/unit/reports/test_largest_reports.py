"""The largest report that its own schema allows is one that the reports server takes."""

import enum
import types
import typing

import pytest
from annotated_types import MaxLen
from pydantic import BaseModel

from graft_api.collect import CollectorReport
from graft_api.fleet import AgentReport, GatewayReport
from graft_api.schema import canonical_json
from graft_api.watch import Moments
from graft_operator.reports.server import MAX_FLEET_BODY_BYTES

PATTERN_CHARACTERS = 80
"""Of strings whose pattern alone bounds them: the longest are digests, of 71."""
ANY, NAME = "\x01", "a"
"""A character of a sentence, which JSON may need six for, and one of a name that has a pattern."""
LARGEST = {int: 2**63 - 1, float: -1.2345678901234567e-300, bool: False, str: NAME * PATTERN_CHARACTERS}


def largest(annotation, metadata=()):  # noqa: PLR0911 - one for each kind of type
    """Return a value of this type, as JSON has it, that is as long as any."""
    origin, given, most = typing.get_origin(annotation), typing.get_args(annotation), bound(metadata)
    if origin is typing.Annotated:
        return largest(given[0], [*metadata, *given[1:]])
    if origin in (typing.Union, types.UnionType):
        return max((largest(one, metadata) for one in given if one is not type(None)), key=length)
    if origin is typing.Literal:
        return max(given, key=length)
    if origin is list:
        return [largest(given[0])] * most
    if origin is dict:
        key = largest(given[0])
        return {f"{number:04}{key[4:]}": largest(given[1]) for number in range(most)}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {field.alias or name: largest(field.annotation, field.metadata) for name, field in annotation.model_fields.items()}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return max((one.value for one in annotation), key=length)
    if annotation is str and most is not None:
        return (NAME if any(getattr(one, "pattern", None) for one in parts(metadata)) else ANY) * most
    return LARGEST[annotation]


def parts(metadata):
    """Return constraints, those within `Field(...)` included."""
    return [part for one in metadata for part in (one, *getattr(one, "metadata", ()))]


def bound(metadata):
    found = [part.max_length for part in parts(metadata) if isinstance(part, MaxLen)]
    return found[-1] if found else None


def length(value):
    return len(canonical_json(value))


@pytest.mark.parametrize("report", [CollectorReport, AgentReport, GatewayReport])
def test_the_largest_report_is_taken(report):
    found = largest(report)
    assert length(found) <= MAX_FLEET_BODY_BYTES, {name: length(value) for name, value in found.items() if length(value) > 4000}


def test_what_is_said_of_all_watches_at_once_is_half_of_it_at_most():
    """Of 31 domains with 17 metrics each: the part that is sent again and again while something is watched."""
    found = largest(CollectorReport)["watched"]
    assert (len(found), len(found[0]["count"]["metrics"]), len(found[0]["count"]["metrics"][0]["new"])) == (
        31,
        17,
        len(Moments.model_fields),
    )
    assert length(found) <= MAX_FLEET_BODY_BYTES / 2
