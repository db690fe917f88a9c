"""/v1/models: the aliases, for clients of OpenAI's and of Anthropic's API alike."""

from typing import Any

from graft_serving.gateway.errors import Cause, Refusal
from graft_serving.gateway.table import RoutingTable


def model_list(table: RoutingTable) -> dict[str, Any]:
    """Return the list. Both dialects' fields are in it, since no field has two meanings."""
    names = sorted(table.aliases)
    return {
        "object": "list",
        "data": [_model(name) for name in names],
        "has_more": False,
        "first_id": names[0] if names else None,
        "last_id": names[-1] if names else None,
    }


def one_model(table: RoutingTable, name: str) -> dict[str, Any]:
    """Return one alias. Raises `Refusal`."""
    if name not in table.aliases:
        raise Refusal(404, Cause.UNKNOWN_MODEL, "this model does not exist", param="model", code="model_not_found")
    return _model(name)


def _model(name: str) -> dict[str, Any]:
    # What serves an alias changes without notice; when it was first there is known to nobody here.
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "graft",
        "type": "model",
        "display_name": name,
        "created_at": "1970-01-01T00:00:00Z",
    }
