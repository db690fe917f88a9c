"""
A check's composition root: what there is, and who runs.

    principles, document from before -> doors of the endpoint -> embeddings -> readings -> store -> operator

It reports until SIGTERM, for the operator deletes the Job when it knows; then it ends with 0.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from functools import partial
from random import SystemRandom

from graft_runtime.process import Process, Service, run_process
from graft_serving.collector.store import open_store
from graft_serving.drift.check import Check, Surroundings
from graft_serving.drift.settings import Settings, settings_from
from graft_serving.operator_client import OperatorClient, report_target


def run(environ: Mapping[str, str]) -> int:
    """Measure, and report until SIGTERM. Returns the exit code; raises `MissingSetting`."""
    return run_process(partial(_main, settings_from(environ), environ))


async def _main(settings: Settings, environ: Mapping[str, str]) -> int:
    me, random = settings.identity, SystemRandom()
    client = OperatorClient(report_target(me.reports_url, me.namespace, me.endpoint, "drift", me.reports_directory), random)
    around = Surroundings(secrets.token_hex(8), environ, time.time, random, open_store)
    check = Check(settings, around, client.changed)
    return await Process([Service("check", check.run), Service("reports", lambda: client.run(check.picture))]).run()
