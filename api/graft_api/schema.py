"""
The ground that every contract stands on: strict frozen models whose rules are written once.

A rule that spans fields stands beside its fields twice, as CEL for the API server and as Python for everybody else
(`Rule`); the parity tests hold the two against each other on every sample.
"""

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError, core_schema

DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"


@dataclass(frozen=True)
class Rule:
    """
    One cross-field rule, in both languages.

    `cel` is evaluated by the API server with `self` bound to the object, `check` by pydantic with the model.
    `field` is the JSON path below the object that the API server names in its error, `.lora` for instance.
    """

    cel: str
    message: str
    check: Callable[[Any], bool]
    field: str = ""

    def as_schema(self) -> dict[str, str]:
        """Return the entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        return entry | {"fieldPath": self.field} if self.field else entry


class Model(BaseModel):
    """A value: frozen, camelCase in JSON, unknown fields refused, types never coerced."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        strict=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules that span fields."""

    transition_rules: ClassVar[tuple[dict[str, str], ...]] = ()
    """CEL rules over `oldSelf`: only the API server can judge them."""

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        for rule in self.rules:
            if not rule.check(self):
                raise PydanticCustomError("rule", "{message}", {"message": rule.message, "field": rule.field})
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's hook
        schema: dict[str, Any] = handler(core)
        validations = [rule.as_schema() for rule in cls.rules] + list(cls.transition_rules)
        if validations:
            handler.resolve_ref_schema(schema)["x-kubernetes-validations"] = validations
        return schema

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object, camelCase, without fields that were never set to anything."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], value: object, *, from_newer: bool = False) -> M:
    """
    Read a JSON-like value strictly, as the API server does.

    With `from_newer` unknown fields are ignored: what a part of a newer version says to one of an older version, which an upgrade
    of the operator alone does not replace. Raises `Invalid` that names each field with its path.
    """
    try:
        # By alias alone: the API server knows no snake_case, and would refuse or silently drop it.
        extra: Literal["ignore", "forbid"] = "ignore" if from_newer else "forbid"
        return model.model_validate_json(json.dumps(value), by_alias=True, by_name=False, extra=extra)
    except ValidationError as error:
        raise Invalid.of(error) from error


def _no_string(given: object) -> str:
    """Return what to do about a value that is no string, without the value (it may hold content)."""
    if given is None:
        return "must be a string, and is null"
    if isinstance(given, bool):
        return 'must be a string; put it in quotes, such as "true"'
    return 'must be a string; put a number in quotes, such as "0.98"' if isinstance(given, int | float) else "must be a string"


class Invalid(ValueError):  # noqa: N818 - it is a statement about the input, read by users
    """Input that its author must change; `problems` are sentences that begin with the field's path."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    @classmethod
    def of(cls, error: ValidationError) -> "Invalid":
        """Turn pydantic's report into one sentence a field, without the input (it may hold content)."""
        problems = []
        for item in error.errors(include_url=False):
            path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])
            path = (path + str(item.get("ctx", {}).get("field", ""))).lstrip(".")
            said = _no_string(item["input"]) if item["type"] == "string_type" else item["msg"].removeprefix("Value error, ")
            problems.append(f"{path + ': ' if path else ''}{said}")
        return cls(problems)


def canonical_json(value: object) -> bytes:
    """Serialise with sorted keys and no spaces: equal values have equal bytes, and so equal digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class Decimal:
    """
    Annotation of a `str`: a decimal number within bounds. JSON floats do not survive every client unchanged.

    The pattern lets no NaN, Inf, sign or hexadecimal through.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:  # noqa: ANN401 - pydantic's hook
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(max_length=24, strict=True))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's hook
        result: dict[str, Any] = {"type": "string", "maxLength": 24, "pattern": DECIMAL_PATTERN}
        if bounds := self._bounds():
            rule = " && ".join(f"double(self) {sign} {bound!r}" for sign, bound in bounds)
            result["x-kubernetes-validations"] = [{"rule": rule, "message": f"must be {self._wanted()}"}]
        return result

    def _bounds(self) -> list[tuple[str, float]]:
        named = ((">", self.gt), (">=", self.ge), ("<", self.lt), ("<=", self.le))
        return [(sign, float(bound)) for sign, bound in named if bound is not None]

    def _wanted(self) -> str:
        return " and ".join(f"{sign} {bound:g}" for sign, bound in self._bounds())

    def _check(self, value: str) -> str:
        if not re.fullmatch(DECIMAL_PATTERN, value):
            raise ValueError("must be a decimal number in a string, such as '0.05' or '2e-4'")
        if not all(_COMPARE[sign](float(value), bound) for sign, bound in self._bounds()):
            raise ValueError(f"{value} must be {self._wanted()}")
        return value


DURATION_PATTERN = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def seconds_of(duration: str) -> int:
    """Return the length of a duration such as `168h` or `1h30m`, in seconds."""
    match = _DURATION.fullmatch(duration)
    assert match is not None  # noqa: S101 - its schema has seen to it
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


@dataclass(frozen=True)
class Duration:
    """Annotation of a `str`: a length of time such as `168h`, `1h30m` or `90s`, within bounds that are written likewise."""

    ge: str
    le: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:  # noqa: ANN401 - pydantic's hook
        return core_schema.no_info_after_validator_function(self._check, core_schema.str_schema(min_length=2, max_length=24, strict=True))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:  # noqa: ANN401 - pydantic's hook
        rule = f"duration(self) >= duration('{self.ge}') && duration(self) <= duration('{self.le}')"
        return {
            "type": "string",
            "minLength": 2,
            "maxLength": 24,
            "pattern": DURATION_PATTERN,
            "x-kubernetes-validations": [{"rule": rule, "message": self._wanted()}],
        }

    def _wanted(self) -> str:
        return f"must be a duration between {self.ge} and {self.le}, such as 168h or 1h30m"

    def _check(self, value: str) -> str:
        if not re.fullmatch(DURATION_PATTERN, value) or not seconds_of(self.ge) <= seconds_of(value) <= seconds_of(self.le):
            raise ValueError(self._wanted())
        return value


_COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}

DnsLabel = Annotated[str, StringConstraints(max_length=63, min_length=1, pattern=DNS_LABEL_PATTERN)]
ObjectName = Annotated[str, StringConstraints(max_length=253, min_length=1, pattern=DNS_SUBDOMAIN_PATTERN)]
Digest = Annotated[str, StringConstraints(max_length=71, pattern=DIGEST_PATTERN)]
Uid = Annotated[str, StringConstraints(max_length=64, min_length=1)]
Timestamp = Annotated[str, StringConstraints(max_length=40), WithJsonSchema({"type": "string", "format": "date-time"})]
Count = Annotated[int, Field(ge=0)]
