"""Read the Jobs that measure drift, where there are or may be any."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from graft_api.dataplane import COMPONENT_LABEL, ENDPOINT_LABEL
from graft_api.drift import DRIFT
from graft_api.ledger import Ledger
from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.schema import Invalid
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.ownership import is_controlled_by
from graft_operator.engine.queue import Key
from graft_operator.engine.resources import JOBS
from graft_operator.modelendpoint.parent import Manifest, Parent
from graft_operator.promotion import drifting


@dataclass(frozen=True)
class FoundJobs:
    """What there is of one endpoint."""

    ours: list[Manifest] = field(default_factory=list)
    """Those of which it is the controller."""
    taken: frozenset[str] = frozenset()
    """Names of attempts that somebody else's Jobs have."""


@dataclass
class DriftJobs:
    """
    Asks for the Jobs of endpoints whose policy or candidate has to do with drift; of all others until once there were none.

    What was left over, by a policy that is gone or an operator that was killed, is so found after a change and after a start, and
    an endpoint without drift costs no request at each pass.
    """

    none: dict[Key, str] = field(default_factory=dict)
    """Uids of endpoints that have to do with no drift, and were seen without a Job."""

    async def read(self, kube: Kube, parent: Parent, spec: ModelEndpointSpec | Invalid, ledger: Ledger | None) -> FoundJobs:
        """Return what there is, or nothing where nothing can be."""
        key = Key(parent.namespace, parent.name)
        drifts = _drifts(spec, ledger)
        if not drifts and self.none.get(key) == parent.uid:
            return FoundJobs()
        found = await _found(kube, key, parent, _awaited(parent, ledger))
        if drifts or found.ours:
            self.forget(key)
        else:
            self.none[key] = parent.uid
        return found

    def forget(self, key: Key) -> None:
        """An endpoint is gone, or has to do with drift."""
        self.none.pop(key, None)


def _drifts(spec: ModelEndpointSpec | Invalid, ledger: Ledger | None) -> bool:
    gates = [entry.gate for entry in (ledger.domains if ledger else []) if entry.gate]
    return (isinstance(spec, ModelEndpointSpec) and spec.drifts()) or any(gate.policy.drift for gate in gates)


def _awaited(parent: Parent, ledger: Ledger | None) -> Iterator[str]:
    """Return the names of attempts whose Job the ledger does not know yet."""
    for entry in ledger.domains if ledger else []:
        moment = drifting.under_way(entry.gate) if entry.gate else None
        if entry.gate is not None and moment is not None and drifting.record(entry.gate, moment).job is None:
            yield drifting.name_of(parent.name, entry.name, entry.gate, moment)


async def _found(kube: Kube, key: Key, parent: Parent, awaited: Iterable[str]) -> FoundJobs:
    """List the Jobs by their label; one without it has the name of an attempt, and is somebody else's or has lost it."""
    jobs = await kube.list(JOBS, Selection(key.namespace, labels=_labels(key)))
    ours = [job for job in jobs if is_controlled_by(job, parent.uid)]
    known, taken = {job["metadata"]["name"] for job in ours}, set()
    for name in awaited:
        job = None if name in known else await kube.get(JOBS, key.namespace, name)
        if job is not None and is_controlled_by(job, parent.uid):
            ours.append(job)
        elif job is not None:
            taken.add(name)
    return FoundJobs(ours, frozenset(taken))


def _labels(key: Key) -> str:
    return f"{ENDPOINT_LABEL}={key.name},{COMPONENT_LABEL}={DRIFT}"
