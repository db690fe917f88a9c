"""Whose ledger is ahead of their routes: what an operator that was killed has left is completed before anything else is looked at."""

import json

from graft_api.dataplane import LEDGER_KEY, LEDGER_RECORD, RECORD_LABEL, ROUTES_KEY, ROUTES_RECORD
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import Object
from graft_operator.engine.watch import owner_key

_KEYS = {LEDGER_RECORD: LEDGER_KEY, ROUTES_RECORD: ROUTES_KEY}
_endpoint_of = owner_key("ModelEndpoint")


class Unfinished:
    """Sees every record that the watch brings. It sorts what waits, and decides nothing: reconcilers read records afresh."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Key, str], tuple[int, int]] = {}
        """By endpoint and record: epoch and revision."""

    def endpoint_of(self, body: Object) -> Key | None:
        """Return the endpoint of a record, if its routes do not say yet what its ledger says."""
        key, record = _endpoint_of(body), body["metadata"]["labels"].get(RECORD_LABEL)
        if key is None or record not in _KEYS:
            return None
        self._numbers[key, record] = _number(body, _KEYS[record])
        ledger, routes = self._numbers.get((key, LEDGER_RECORD)), self._numbers.get((key, ROUTES_RECORD))
        return key if ledger and routes and ledger > routes else None


def _number(body: Object, key: str) -> tuple[int, int]:
    """Of what cannot be read: as low as can be. Its endpoint will say so."""
    try:
        document = json.loads(body["data"][key])
        return int(document.get("epoch", 0)), int(document.get("revision", 0))
    except (KeyError, TypeError, ValueError, AttributeError):
        return 0, 0
