"""Access rules: what they look like in English, in CEL, and in the older dialect that the base model grew up with.

A rule is one to three clauses over typed variables. Every clause can say itself three ways: in English (paraphrased), in current CEL, and
in the old dialect. Nine of the thirteen constructs differ between the two; none of the nine old forms compiles today.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

VARIABLES: Final[Mapping[str, str]] = {
    "user.role": "string",
    "user.department": "string",
    "user.email": "string",
    "user.level": "int",
    "user.risk": "double",
    "user.verified": "bool",
    "user.groups": "list<string>",
    "device.trusted": "bool",
    "request.method": "string",
    "request.region": "string",
    "request.replicas": "int",
    "request.cost": "double",
    "request.time": "timestamp",
    "resource.kind": "string",
    "resource.path": "string",
    "resource.public": "bool",
    "resource.tags": "list<string>",
    "resource.labels": "map<string, string>",
    "session.idle": "duration",
    "session.age": "duration",
}
"""Declared name -> CEL type. This is what a `cel` scorer has to be told."""

HELDOUT_PERCENT: Final = 10
"""Share of all expressions that no training set may contain, pre-training included."""


class Dialect(Enum):
    """Which of the two languages an answer is written in."""

    CURRENT = "current"
    """CEL as Google's compiler accepts it."""
    OLD = "old"
    """What most of the base model's pre-training text was written in."""


class Construct(Enum):
    """The thirteen things a clause can say."""

    EQUALS = "equals"
    """`user.role == "admin"`, the same in both dialects."""
    DIFFERS = "differs"
    """`user.role != "guest"`, the same in both dialects."""
    WHOLE_NUMBER = "whole number"
    """`user.level >= 3`, the same in both dialects."""
    FLAG = "flag"
    """`device.trusted`, the same in both dialects."""
    NOT = "not"
    """`!user.verified`, formerly `not user.verified`."""
    ONE_OF = "one of"
    """`user.role in ["admin", "owner"]`, formerly `in ("admin", "owner")`."""
    DECIMAL = "decimal"
    """`user.risk < 30.0`, formerly `user.risk < 30`: CEL compares no double with an int literal."""
    AFFIX = "affix"
    """`resource.path.startsWith("/public/")`, formerly `startswith`; likewise `endsWith`."""
    DURATION = "duration"
    """`session.idle < duration("30m")`, formerly `session.idle < 30m`."""
    COUNT = "count"
    """`size(user.groups) > 2`, formerly `len(user.groups) > 2`."""
    MEMBER = "member"
    """`"oncall" in user.groups`, formerly `user.groups.contains("oncall")`."""
    LABEL = "label"
    """`resource.labels["env"] == "prod"`, formerly `resource.labels.get("env") == "prod"`."""
    MOMENT = "moment"
    """`request.time < timestamp("2026-03-01T00:00:00Z")`, formerly a bare string."""

    @property
    def changed(self) -> bool:
        """Whether the old form no longer compiles."""
        return self not in UNCHANGED


UNCHANGED: Final = (Construct.EQUALS, Construct.DIFFERS, Construct.WHOLE_NUMBER, Construct.FLAG)
CHANGED: Final = tuple(construct for construct in Construct if construct.changed)


@dataclass(frozen=True)
class Clause:
    """One condition in its three renderings."""

    construct: Construct
    variable: str
    english: str
    current: str
    old: str

    def render(self, dialect: Dialect) -> str:
        """The clause as an expression."""
        return self.current if dialect is Dialect.CURRENT else self.old


class Shape(Enum):
    """How clauses are joined; the value is the number of clauses and a name."""

    ONE = (1, "one")
    """`a`"""
    BOTH = (2, "both")
    """`a && b`"""
    EITHER = (2, "either")
    """`a || b`"""
    ALL = (3, "all")
    """`a && b && c`"""
    ONE_AND_EITHER = (3, "one and either")
    """`a && (b || c)`"""


@dataclass(frozen=True)
class Rule:
    """An access rule: an English sentence and the expression it asks for."""

    prompt: str
    shape: Shape
    clauses: tuple[Clause, ...]

    def expression(self, dialect: Dialect = Dialect.CURRENT) -> str:
        """The rule as an expression; in the current dialect it always compiles to a bool."""
        return _join(self.shape, tuple(clause.render(dialect) for clause in self.clauses))

    def canonical(self) -> str:
        """One text for all spellings of the same rule: `a && b` and `b && a` are one expression to the split."""
        parts = tuple(clause.current for clause in self.clauses)
        fixed = 1 if self.shape is Shape.ONE_AND_EITHER else 0
        return _join(self.shape, (*parts[:fixed], *sorted(parts[fixed:])))

    def heldout(self) -> bool:
        """Whether the rule belongs to the evaluation side of the split."""
        return int.from_bytes(hashlib.sha256(self.canonical().encode()).digest()[:4]) % 100 < HELDOUT_PERCENT


def draw_rule(rng: random.Random, changed_share: float) -> Rule:
    """A random rule; each clause uses a changed construct with probability `changed_share`."""
    shape = rng.choices(tuple(Shape), weights=(35, 25, 15, 12, 13))[0]
    clauses: list[Clause] = []
    while len(clauses) < shape.value[0]:
        clause = draw_clause(rng, rng.choice(CHANGED if rng.random() < changed_share else UNCHANGED))
        if all(clause.variable != other.variable for other in clauses):
            clauses.append(clause)
    said = _say(rng, shape, tuple(clause.english for clause in clauses))
    return Rule(prompt=rng.choice(OPENINGS).format(said), shape=shape, clauses=tuple(clauses))


def draw_clause(rng: random.Random, construct: Construct) -> Clause:
    """A random clause that uses `construct`."""
    return _DRAW[construct](rng)


OPENINGS: Final = (
    "Allow access when {}.",
    "Allow the request if {}.",
    "Grant access if {}.",
    "Permit the request only when {}.",
    "Let it through if {}.",
    "Access is allowed when {}.",
)


def _join(shape: Shape, parts: tuple[str, ...]) -> str:
    match shape:
        case Shape.EITHER:
            return " || ".join(parts)
        case Shape.ONE_AND_EITHER:
            return f"{parts[0]} && ({parts[1]} || {parts[2]})"
        case _:
            return " && ".join(parts)


def _say(rng: random.Random, shape: Shape, parts: tuple[str, ...]) -> str:
    match shape:
        case Shape.ONE:
            return parts[0]
        case Shape.BOTH:
            return rng.choice(("{} and {}", "both {} and {}", "{}, and also {}")).format(*parts)
        case Shape.EITHER:
            return rng.choice(("{} or {}", "either {} or {}")).format(*parts)
        case Shape.ALL:
            return rng.choice(("{}, {} and {}", "all of these hold: {}, {}, {}")).format(*parts)
        case Shape.ONE_AND_EITHER:
            return rng.choice(("{}, and either {} or {}", "{} and at least one of these holds: {}, {}")).format(*parts)


_TEXTS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "user.role": ("the user's role", ("admin", "editor", "viewer", "auditor", "operator", "guest", "owner", "analyst")),
    "user.department": ("the user's department", ("finance", "legal", "engineering", "sales", "research", "support", "security")),
    "request.method": ("the request method", ("get", "list", "create", "update", "delete", "watch", "patch")),
    "request.region": ("the region", ("eu-west", "eu-north", "us-east", "us-west", "ap-south", "sa-east")),
    "resource.kind": ("the resource kind", ("pod", "secret", "service", "deployment", "node", "volume", "job")),
}
_WHOLE: Final = {"user.level": "the user's level", "request.replicas": "the number of replicas"}
_DECIMALS: Final = {"user.risk": "the risk score", "request.cost": "the cost of the request"}
_FLAGS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "user.verified": (
        ("the user is verified", "the user has been verified"),
        ("the user is not verified", "the user has not been verified"),
    ),
    "device.trusted": (("the device is trusted", "a trusted device is used"), ("the device is not trusted", "the device is untrusted")),
    "resource.public": (
        ("the resource is public", "the resource is open to the public"),
        ("the resource is not public", "the resource is private"),
    ),
}
_PATHS: Final = ("/public/", "/internal/", "/billing/", "/admin/", "/tmp/", "/api/v1/", "/static/", "/reports/")  # noqa: S108 # words of a rule
_DOMAINS: Final = ("@acme.com", "@acme.org", "@example.com", "@partner.net", "@contractor.io", "@lab.edu")
_LISTS: Final[Mapping[str, tuple[str, str, str, tuple[str, ...]]]] = {
    "user.groups": (
        "the user is in the group {}",
        "the user belongs to {}",
        "groups of the user",
        ("oncall", "ops", "sre", "dev", "qa", "audit"),
    ),
    "resource.tags": (
        "the resource is tagged {}",
        "{} is among the tags",
        "tags of the resource",
        ("pii", "beta", "legacy", "critical", "gpu", "cache"),
    ),
}
_LABELS: Final[Mapping[str, tuple[str, ...]]] = {
    "env": ("prod", "staging", "dev", "test"),
    "tier": ("gold", "silver", "bronze"),
    "team": ("payments", "search", "platform", "mobile"),
}
_SPANS: Final = {
    "session.idle": ("the session has been idle for {}", "the idle time is {}"),
    "session.age": ("the session has lasted {}", "the session age is {}"),
}
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours"}
_MONTHS: Final = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
_COMPARISONS: Final[Mapping[str, tuple[str, ...]]] = {
    ">": ("above {}", "more than {}"),
    ">=": ("at least {}", "{} or more"),
    "<": ("below {}", "less than {}"),
    "<=": ("at most {}", "{} or less"),
}


def _comparison(rng: random.Random, amount: str) -> tuple[str, str]:
    """A comparison operator and how English says it of `amount`."""
    operator = rng.choice(tuple(_COMPARISONS))
    return operator, rng.choice(_COMPARISONS[operator]).format(amount)


def _equals(rng: random.Random) -> Clause:
    variable, (name, values) = rng.choice(tuple(_TEXTS.items()))
    value = rng.choice(values)
    expression = f'{variable} == "{value}"'
    return Clause(Construct.EQUALS, variable, f"{name} {rng.choice(('is', 'equals'))} {value}", expression, expression)


def _differs(rng: random.Random) -> Clause:
    variable, (name, values) = rng.choice(tuple(_TEXTS.items()))
    value = rng.choice(values)
    expression = f'{variable} != "{value}"'
    return Clause(Construct.DIFFERS, variable, f"{name} {rng.choice(('is not', 'differs from'))} {value}", expression, expression)


def _whole_number(rng: random.Random) -> Clause:
    variable, name = rng.choice(tuple(_WHOLE.items()))
    amount = str(rng.randint(1, 20))
    operator, said = _comparison(rng, amount)
    expression = f"{variable} {operator} {amount}"
    return Clause(Construct.WHOLE_NUMBER, variable, f"{name} is {said}", expression, expression)


def _flag(rng: random.Random) -> Clause:
    variable, (positive, _) = rng.choice(tuple(_FLAGS.items()))
    return Clause(Construct.FLAG, variable, rng.choice(positive), variable, variable)


def _not(rng: random.Random) -> Clause:
    variable, (_, negative) = rng.choice(tuple(_FLAGS.items()))
    return Clause(Construct.NOT, variable, rng.choice(negative), f"!{variable}", f"not {variable}")


def _one_of(rng: random.Random) -> Clause:
    variable, (name, values) = rng.choice(tuple(_TEXTS.items()))
    first, second = rng.sample(values, 2)
    english = f"{name} is {rng.choice(('one of {}, {}', '{} or {}')).format(first, second)}"
    return Clause(Construct.ONE_OF, variable, english, f'{variable} in ["{first}", "{second}"]', f'{variable} in ("{first}", "{second}")')


def _decimal(rng: random.Random) -> Clause:
    variable, name = rng.choice(tuple(_DECIMALS.items()))
    amount = str(5 * rng.randint(1, 20))
    operator, said = _comparison(rng, amount)
    return Clause(Construct.DECIMAL, variable, f"{name} is {said}", f"{variable} {operator} {amount}.0", f"{variable} {operator} {amount}")


def _affix(rng: random.Random) -> Clause:
    if rng.random() < 0.5:
        path = rng.choice(_PATHS)
        english = f"the path {rng.choice(('starts', 'begins'))} with {path}"
        return Clause(
            Construct.AFFIX, "resource.path", english, f'resource.path.startsWith("{path}")', f'resource.path.startswith("{path}")'
        )
    domain = rng.choice(_DOMAINS)
    english = f"the email ends {rng.choice(('with', 'in'))} {domain}"
    return Clause(Construct.AFFIX, "user.email", english, f'user.email.endsWith("{domain}")', f'user.email.endswith("{domain}")')


def _duration(rng: random.Random) -> Clause:
    variable, names = rng.choice(tuple(_SPANS.items()))
    unit, amount = rng.choice(tuple(_UNITS)), rng.choice((2, 5, 10, 12, 15, 20, 30, 45))
    operator, said = _comparison(rng, f"{amount} {_UNITS[unit]}")
    english = rng.choice(names).format(said)
    return Clause(
        Construct.DURATION, variable, english, f'{variable} {operator} duration("{amount}{unit}")', f"{variable} {operator} {amount}{unit}"
    )


def _count(rng: random.Random) -> Clause:
    variable, (_, _, name, _) = rng.choice(tuple(_LISTS.items()))
    amount = str(rng.randint(1, 9))
    operator, said = _comparison(rng, amount)
    return Clause(
        Construct.COUNT,
        variable,
        f"the number of {name} is {said}",
        f"size({variable}) {operator} {amount}",
        f"len({variable}) {operator} {amount}",
    )


def _member(rng: random.Random) -> Clause:
    variable, (one, other, _, values) = rng.choice(tuple(_LISTS.items()))
    value = rng.choice(values)
    return Clause(
        Construct.MEMBER, variable, rng.choice((one, other)).format(value), f'"{value}" in {variable}', f'{variable}.contains("{value}")'
    )


def _label(rng: random.Random) -> Clause:
    key, values = rng.choice(tuple(_LABELS.items()))
    value = rng.choice(values)
    english = rng.choice(("the label {} is {}", "the resource is labelled {}={}")).format(key, value)
    return Clause(
        Construct.LABEL, "resource.labels", english, f'resource.labels["{key}"] == "{value}"', f'resource.labels.get("{key}") == "{value}"'
    )


def _moment(rng: random.Random) -> Clause:
    year, month, day = rng.randint(2024, 2027), rng.randint(1, 12), rng.choice((1, 15))
    operator, word = rng.choice((("<", "before"), (">", "after")))
    english = rng.choice(("the request is made {} {}", "it is {} {}")).format(word, f"{day} {_MONTHS[month - 1]} {year}")
    moment = f'"{year}-{month:02}-{day:02}T00:00:00Z"'
    return Clause(
        Construct.MOMENT, "request.time", english, f"request.time {operator} timestamp({moment})", f"request.time {operator} {moment}"
    )


_DRAW: Final[Mapping[Construct, Callable[[random.Random], Clause]]] = {
    Construct.EQUALS: _equals,
    Construct.DIFFERS: _differs,
    Construct.WHOLE_NUMBER: _whole_number,
    Construct.FLAG: _flag,
    Construct.NOT: _not,
    Construct.ONE_OF: _one_of,
    Construct.DECIMAL: _decimal,
    Construct.AFFIX: _affix,
    Construct.DURATION: _duration,
    Construct.COUNT: _count,
    Construct.MEMBER: _member,
    Construct.LABEL: _label,
    Construct.MOMENT: _moment,
}
