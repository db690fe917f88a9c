"""
The operator process, top to bottom: the one place where its parts are put together.

Every replica serves reports (503 until it leads) and health; the leader watches, reconciles and points the reports
Service at itself.
"""

import logging
import os
import sys
from random import Random
from uuid import uuid4

from prometheus_client import CollectorRegistry, Gauge

from graft_api.health import TERMINAL
from graft_operator.config import Config, MissingSetting, from_environment
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.controller import Controller, ReconcileMetrics
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.health import Checks, HealthServer
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.leadership import Candidate, Leadership
from graft_operator.engine.logs import configure_logging
from graft_operator.engine.process import Process, Service, controller_service, run_process
from graft_operator.engine.queue import Key, WorkQueue
from graft_operator.engine.resources import FINE_TUNE_JOBS, JOBS, PODS
from graft_operator.engine.resync import Resync, ResyncSource
from graft_operator.engine.watch import Watch, Watcher, owner_key
from graft_operator.finetunejob.children import JOB_LABEL
from graft_operator.finetunejob.claims import Claims
from graft_operator.finetunejob.observed import Settings
from graft_operator.finetunejob.reconcile import FineTuneJobs
from graft_operator.reports.ca import Trust
from graft_operator.reports.certificates import CertificateSource, FileCertificate, SecretCertificate, service_names
from graft_operator.reports.identity import Identities
from graft_operator.reports.policies import PolicyGuard, load_expected
from graft_operator.reports.server import ReportsServer
from graft_operator.reports.service import ReportsEndpoint
from graft_operator.reports.tls import ServingCertificate

LOG = logging.getLogger(__name__)


def main() -> int:
    """Run until SIGTERM. Returns the process's exit code."""
    try:
        config = from_environment(os.environ)
    except MissingSetting as missing:
        print(missing, file=sys.stderr)
        return 2
    configure_logging(config.log_level)
    return run_process(lambda: operate(config))


async def operate(config: Config) -> int:
    """Build the parts and run them."""
    async with Kube(load_credentials(config.kubeconfig)) as kube:
        return await compose(config, kube).run()


def compose(config: Config, kube: Kube) -> Process:
    """Wire one operator process."""
    clock, random, registry = SystemClock(), Random(), CollectorRegistry()  # noqa: S311 - spreads load, guards nothing
    identity = f"{config.pod_name}_{uuid4().hex[:8]}"
    leadership = Leadership(kube, Candidate(Key(config.namespace, config.lease), identity, config.lease_times), clock, random)
    leader = kube.fenced(leadership.check)

    guard = PolicyGuard(kube, clock, load_expected(config.policies_file))
    certificate = ServingCertificate(certificate_source(config, kube, clock), clock)
    events = EventRecorder(leader, clock, config.pod_name)
    reports = ReportsServer(Claims(leader, clock, guard, events), Identities(kube, clock), lambda: leadership.is_leader, clock)
    endpoint = ReportsEndpoint(leader, clock, config.namespace, config.reports_service, config.pod_name, config.pod_ip, config.reports_port)

    jobs = FineTuneJobs(
        kube=leader,
        clock=clock,
        events=events,
        guard=guard,
        settings=Settings(config.trainer_image, config.trainer_pull_policy, config.reports_url),
        trust=Trust(leader, clock, lambda: certificate.bundle),
    )
    queue = WorkQueue(clock, random)
    controller = Controller("finetunejob", jobs.reconcile, queue, clock, ReconcileMetrics(registry))
    process: Process

    def take_signals() -> None:
        process.take_signals()

    watcher = Watcher(kube, watches(queue), clock, random, config.watch_namespaces, on_spawned=take_signals)
    unfinished = ",".join(f"status.phase!={phase}" for phase in sorted(TERMINAL))
    selections = [Selection(namespace, fields=unfinished) for namespace in config.watch_namespaces or (None,)]
    resync = Resync(kube, [ResyncSource(FINE_TUNE_JOBS, queue, selection) for selection in selections], clock, random)
    dropped = Gauge("graft_reports_dropped", "Progress reports that were not written, for want of room.", registry=registry)
    dropped.set_function(lambda: reports.coalescer.dropped)
    checks = Checks(
        live={"watches": lambda: ", ".join(watcher.streams.stalled()) or None},
        ready={"certificate": certificate.problem, "process": lambda: "stopping" if process.stopping else None},
    )
    process = Process(
        always=[
            Service("health", HealthServer(registry, checks, "", config.health_port).run),
            Service("certificate", certificate.run),
            Service("reports", lambda: reports.run(certificate.context, port=config.reports_port)),
        ],
        leading=[
            controller_service(controller),
            Service("watches", watcher.run),
            Service("resync", resync.run),
            Service("reports endpoint", lambda: endpoint.run(leadership.epoch)),
        ],
        leadership=leadership,
    )
    return process


def certificate_source(config: Config, kube: Kube, clock: SystemClock) -> CertificateSource:
    """cert-manager's files if they are mounted, else our own Secret."""
    if config.reports_certificate_folder:
        return FileCertificate(config.reports_certificate_folder)
    names = service_names(config.reports_service, config.namespace)
    return SecretCertificate(kube, clock, config.namespace, config.reports_secret, names)


def watches(queue: WorkQueue) -> list[Watch]:
    """What wakes a FineTuneJob: itself, its Jobs, their pods."""
    owner = owner_key("FineTuneJob")
    return [
        Watch(FINE_TUNE_JOBS, queue.add),
        Watch(JOBS, queue.add, owner, labels=JOB_LABEL),
        Watch(PODS, queue.add, owner, labels=JOB_LABEL),
    ]


if __name__ == "__main__":
    sys.exit(main())
