"""
`graft-trainer run`: the pod's three containers as three processes on this machine.

Processes, not functions: the one that holds the signing key never has the user's code in it.
"""

import subprocess
import sys
from dataclasses import replace

from graft_trainer.layout import Mounts

CONTAINERS = ("preflight", "train", "publish")


def run(mounts: Mounts) -> int:
    """Run the containers in order; return the exit code of the first that fails, else 0."""
    work = mounts.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    here = replace(mounts, work=work, termination_log=work / "termination.json")
    here.termination_log.unlink(missing_ok=True)
    for container in CONTAINERS:
        mounted = replace(here, signing_key=work / "no-key") if container == "train" else here
        ended = subprocess.run([sys.executable, "-m", "graft_trainer.main", container, *mounted.arguments()], check=False)
        if ended.returncode:
            return ended.returncode
    return 0
