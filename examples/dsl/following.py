"""What happens in a namespace, as lines: one for each transition of an object of graft's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from graft_devcluster import install

KINDS = "tuningpolicies,finetunejobs,adapters,shadowtests,modelendpoints"
POLL_SECONDS = 1.0

Resource = dict[str, Any]


class Picture:
    """All objects at one moment."""

    def __init__(self, items: list[Resource]) -> None:
        self._items = items

    def of(self, kind: str) -> list[Resource]:
        """The objects of a kind, oldest first."""
        found = [item for item in self._items if item["kind"] == kind]
        return sorted(found, key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"]))

    def newest(self, kind: str) -> Resource:
        """The newest of a kind; an empty one where there is none."""
        return next(reversed(self.of(kind)), {"metadata": {"name": ""}})

    def promotion(self, adapter: str) -> Resource:
        """How far an adapter is on its way into production."""
        found = next((item for item in self.of("Adapter") if item["metadata"]["name"] == adapter), {})
        return found.get("status", {}).get("promotion") or {}

    def arms(self) -> dict[str, int]:
        """What the domain's conversations are on: adapter, or base -> per cent."""
        domains = self.newest("ModelEndpoint").get("status", {}).get("domains") or [{"arms": []}]
        return {arm.get("adapter") or "base": round(arm["weight"] / 100) for arm in domains[0]["arms"]}

    def lines(self) -> Iterator[tuple[str, str]]:
        """One line for each object that has something to say."""
        for item in self._items:
            text = _LINES[item["kind"]](item.get("status") or {})
            if text:
                yield f"{item['kind']} {item['metadata']['name']}", text


class Follower:
    """Prints what changes, with the seconds since the beginning."""

    def __init__(self, tools: install.Tools, namespace: str) -> None:
        self._tools, self._namespace = tools, namespace
        self._began = time.monotonic()
        self._said: dict[str, str] = {}

    def look(self) -> Picture:
        """Look once, and print what is new."""
        raw = self._tools.run("kubectl", "get", KINDS, "-n", self._namespace, "-o", "json")
        picture = Picture(json.loads(raw)["items"])
        for who, text in picture.lines():
            if self._said.get(who) != text:
                self._said[who] = text
                print(f"{time.monotonic() - self._began:6.0f} s  {who}: {text}", flush=True)
        return picture

    def until(self, what: str, holds: Callable[[Picture], bool], seconds: float) -> Picture:
        """Follow until something holds. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            picture = self.look()
            if holds(picture):
                return picture
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"not within {seconds:.0f} s: {what}")


def _policy(status: Resource) -> str:
    (domain,) = status.get("domains") or [{}]
    decision = domain.get("decision")
    if decision == "Launched":
        return f"Launched {domain['lastLaunch']['job']}"
    sentence = "; ".join(criterion["sentence"] for criterion in domain.get("criteria", []))
    return f"{decision}: {sentence}" if decision == "NotMet" and "kept" not in sentence else decision or ""


def _job(status: Resource) -> str:
    stage = (status.get("progress") or {}).get("stage", "")
    failure = status.get("failure") or {}
    return " ".join(part for part in (status.get("phase", ""), stage, failure.get("message", "")) if part)


def _adapter(status: Resource) -> str:
    promotion = status.get("promotion") or {}
    state = promotion.get("state", "")
    said = f"{state}: {promotion.get('message', '')}" if state in TELLING else state
    return ", ".join(dict.fromkeys(part for part in (status.get("phase", ""), said) if part))


def _test(status: Resource) -> str:
    verdict = status.get("verdict") or {}
    return verdict.get("sentence") or status.get("phase", "")


def _endpoint(status: Resource) -> str:
    domains = status.get("domains") or [{"arms": []}]
    arms = ", ".join(f"{arm.get('adapter') or 'base'} {arm['weight'] / 100:.0f} %" for arm in domains[0]["arms"])
    return " ".join(part for part in (status.get("phase", ""), f"(dsl: {arms})" if arms else "") if part)


TELLING = frozenset({"NotProven", "Rejected", "RolledBack", "Confirmed", "Unconfirmed", "Drifted"})
"""States that end something, with their reason in words."""
_LINES: dict[str, Callable[[Resource], str]] = {
    "TuningPolicy": _policy,
    "FineTuneJob": _job,
    "Adapter": _adapter,
    "ShadowTest": _test,
    "ModelEndpoint": _endpoint,
}
