"""Does an answer compile? Asked of Google's CEL compiler, with type checking against declared variables."""

from collections.abc import Mapping
from typing import Any

from cel_expr_python import cel

_SCALARS = ("bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration")


class Judge:
    """Compiles expressions; nothing is evaluated."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """`variables` maps a declared name, dots included, to a type such as `int` or `list<string>`."""
        self._env: Any = cel.NewEnv(variables={name: cel_type(text) for name, text in variables.items()})

    def problem(self, expression: str) -> str | None:
        """Why `expression` is no boolean CEL expression, in the compiler's words; None if it is one."""
        try:
            result = self._env.compile(expression).return_type()
        except RuntimeError as refusal:  # the only way in which the binding reports a syntax or type error
            return str(refusal).splitlines()[0]
        return None if result == cel.Type.BOOL else f"the expression is of type {result}, not BOOL"


def cel_type(text: str) -> Any:  # noqa: ANN401 # cel-expr-python ships no types
    """The compiler's type for a name such as `map<string, string>`.

    Built from the named constants: `cel.Type("INT")` raises nothing, it silently means a protobuf message of that name.
    """
    name = text.replace(" ", "")
    if name in _SCALARS:
        return getattr(cel.Type, name.upper())
    if name.startswith("list<") and name.endswith(">"):
        return cel.Type.List(cel_type(name[5:-1]))
    if name.startswith("map<") and name.endswith(">"):
        key, _, value = name[4:-1].partition(",")
        return cel.Type.Map(cel_type(key), cel_type(value))
    raise ValueError(f"{text!r} is no CEL type; use one of {', '.join(_SCALARS)}, list<T>, map<K, V>")
