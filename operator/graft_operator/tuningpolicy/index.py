"""Which phase the jobs of policies have, as the watch has seen them: a policy need not be woken for each step that is trained."""

from dataclasses import dataclass, field
from typing import Any

from graft_api.tuningpolicy import POLICY_LABEL
from graft_operator.engine.queue import Key

Manifest = dict[str, Any]


@dataclass
class LaunchedJobs:
    """By uid. A job that was deleted is found to be gone when the criteria are read the next time."""

    phases: dict[str, str | None] = field(default_factory=dict)

    def changed(self, body: Manifest) -> Key | None:
        """Return the policy of a job whose phase is another one than before; None for all other news."""
        metadata, phase = body["metadata"], (body.get("status") or {}).get("phase")
        policy = (metadata.get("labels") or {}).get(POLICY_LABEL)
        if not policy or (metadata["uid"] in self.phases and self.phases[metadata["uid"]] == phase):
            return None
        self.phases[metadata["uid"]] = phase
        return Key(metadata["namespace"], policy)
