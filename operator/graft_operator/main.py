"""
The operator process, top to bottom: the one place where its parts are put together.

Every replica serves reports (503 until it leads) and health; the leader watches, reconciles and points the reports
Service at itself.
"""

import logging
import os
import sys
from dataclasses import dataclass
from random import Random
from uuid import uuid4

from prometheus_client import CollectorRegistry, Gauge

from graft_api.dataplane import COMPONENT_LABEL, ENDPOINT_LABEL, LEDGER_RECORD, RECORD_LABEL, ROUTES_RECORD
from graft_api.health import TERMINAL
from graft_operator.adapter.index import AdapterIndex, endpoint_of
from graft_operator.adapter.reconcile import Adapters
from graft_operator.config import Config, from_environment
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.controller import Controller, ReconcileMetrics
from graft_operator.engine.credentials import load_credentials
from graft_operator.engine.events import EventRecorder
from graft_operator.engine.kube import Kube, Selection
from graft_operator.engine.leadership import Candidate, Leadership
from graft_operator.engine.process import LedProcess, controller_service
from graft_operator.engine.queue import Key, WorkQueue
from graft_operator.engine.resources import ADAPTERS, CONFIG_MAPS, DEPLOYMENTS, FINE_TUNE_JOBS, JOBS, MODEL_ENDPOINTS, PODS
from graft_operator.engine.resync import Resync, ResyncSource
from graft_operator.engine.watch import Watch, Watcher, owner_key
from graft_operator.finetunejob.children import JOB_LABEL
from graft_operator.finetunejob.claims import Claims
from graft_operator.finetunejob.observed import Settings
from graft_operator.finetunejob.reconcile import FineTuneJobs
from graft_operator.modelendpoint.children import Platform
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.modelendpoint.reconcile import ModelEndpoints
from graft_operator.reports.ca import Trust
from graft_operator.reports.certificates import CertificateSource, FileCertificate, SecretCertificate, service_names
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.identity import Identities
from graft_operator.reports.policies import PolicyGuard, load_expected
from graft_operator.reports.server import ReportsServer
from graft_operator.reports.service import ReportsEndpoint
from graft_operator.reports.tls import ServingCertificate
from graft_runtime.environment import MissingSetting
from graft_runtime.health import Checks, HealthServer
from graft_runtime.logs import configure_logging
from graft_runtime.process import Service, run_process

LOG = logging.getLogger(__name__)

CHATTER = ("kopf.objects", "kopf.activities")
"""kopf's word about every event that it handled."""


def main() -> int:
    """Run until SIGTERM. Returns the process's exit code."""
    try:
        config = from_environment(os.environ)
    except MissingSetting as missing:
        print(missing, file=sys.stderr)
        return 2
    configure_logging(config.log_level, words=True, quiet=CHATTER)
    return run_process(lambda: operate(config))


async def operate(config: Config) -> int:
    """Build the parts and run them."""
    async with Kube(load_credentials(config.kubeconfig)) as kube:
        return await compose(config, kube).run()


def compose(config: Config, kube: Kube) -> LedProcess:
    """Wire one operator process."""
    clock, random, registry = SystemClock(), Random(), CollectorRegistry()  # noqa: S311 - spreads load, guards nothing
    identity = f"{config.pod_name}_{uuid4().hex[:8]}"
    leadership = Leadership(kube, Candidate(Key(config.namespace, config.lease), identity, config.lease_times), clock, random)
    leader = kube.fenced(leadership.check)

    guard = PolicyGuard(kube, clock, load_expected(config.policies_file))
    certificate = ServingCertificate(certificate_source(config, kube, clock), clock)
    events = EventRecorder(leader, clock, config.pod_name)
    wake = Wake(AdapterIndex(), WorkQueue(clock, random), WorkQueue(clock, random))
    fleet = Fleet(clock, wake.endpoint_and_adapters)
    hearsay = Hearsay(fleet, clock)
    reports = ReportsServer(Claims(leader, clock, guard, events), Identities(kube, clock), lambda: leadership.is_leader, clock, fleet)
    endpoint = ReportsEndpoint(leader, clock, config.namespace, config.reports_service, config.pod_name, config.pod_ip, config.reports_port)

    trust = Trust(leader, clock, lambda: certificate.bundle)
    jobs = FineTuneJobs(
        kube=leader,
        clock=clock,
        events=events,
        guard=guard,
        settings=Settings(config.trainer_image, config.trainer_pull_policy, config.reports_url),
        trust=trust,
    )
    endpoints = ModelEndpoints(
        kube=leader,
        clock=clock,
        events=events,
        guard=guard,
        platform=platform(config),
        trust=trust,
        hearsay=hearsay,
        epoch=lambda: leadership.epoch,
        salt=lambda _: f"{random.getrandbits(64):016x}",
    )
    adapters = Adapters(leader, clock, events, hearsay)
    metrics, queue = ReconcileMetrics(registry), WorkQueue(clock, random)
    controllers = [
        Controller("finetunejob", jobs.reconcile, queue, clock, metrics),
        Controller("modelendpoint", endpoints.reconcile, wake.endpoints, clock, metrics),
        Controller("adapter", adapters.reconcile, wake.adapters, clock, metrics),
    ]
    process: LedProcess

    def take_signals() -> None:
        process.take_signals()

    watcher = Watcher(kube, watches(queue, wake), clock, random, config.watch_namespaces, on_spawned=take_signals)
    unfinished = ",".join(f"status.phase!={phase}" for phase in sorted(TERMINAL))
    selections = [Selection(namespace, fields=unfinished) for namespace in config.watch_namespaces or (None,)]
    everything = [Selection(namespace) for namespace in config.watch_namespaces or (None,)]
    sources = [ResyncSource(FINE_TUNE_JOBS, queue, selection) for selection in selections]
    sources += [ResyncSource(MODEL_ENDPOINTS, wake.endpoints, selection) for selection in everything]
    sources += [ResyncSource(ADAPTERS, wake.adapters, selection) for selection in everything]
    resync = Resync(kube, sources, clock, random)
    dropped = Gauge("graft_reports_dropped", "Progress reports that were not written, for want of room.", registry=registry)
    dropped.set_function(lambda: reports.coalescer.dropped)
    unheard = Gauge("graft_fleet_reports_dropped", "Reports of the data plane for which there was no room.", registry=registry)
    unheard.set_function(lambda: fleet.dropped)
    checks = Checks(
        live={"watches": lambda: ", ".join(watcher.streams.stalled()) or None},
        ready={"certificate": certificate.problem, "process": lambda: "stopping" if process.stopping else None},
    )
    process = LedProcess(
        always=[
            Service("health", HealthServer(registry, checks, "", config.health_port).run),
            Service("certificate", certificate.run),
            Service("reports", lambda: reports.run(certificate.context, port=config.reports_port)),
        ],
        leading=[
            *map(controller_service, controllers),
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


def platform(config: Config) -> Platform:
    """What the pods of the data plane are built with."""
    return Platform(
        serving_image=config.serving_image,
        vllm_image=config.vllm_image,
        reports_url=config.reports_url,
        serving_pull_policy=config.serving_pull_policy,
        vllm_pull_policy=config.vllm_pull_policy,
        log_level=config.log_level,
    )


@dataclass(frozen=True)
class Wake:
    """Whom a change in the data plane wakes."""

    index: AdapterIndex
    endpoints: WorkQueue
    adapters: WorkQueue

    def endpoint_and_adapters(self, endpoint: Key) -> None:
        """The endpoint, and all adapters that name it."""
        self.endpoints.add(endpoint)
        self.index.wake(endpoint, self.adapters.add)


def watches(jobs: WorkQueue, wake: Wake) -> list[Watch]:
    """What wakes whom: an object itself, and its children by label. One kind has one stream, and so one selector."""
    job, endpoint = owner_key("FineTuneJob"), owner_key("ModelEndpoint")
    return [
        Watch(FINE_TUNE_JOBS, jobs.add),
        Watch(JOBS, jobs.add, job, labels=JOB_LABEL),
        Watch(PODS, jobs.add, job, labels=COMPONENT_LABEL),
        Watch(PODS, wake.endpoint_and_adapters, endpoint, labels=COMPONENT_LABEL),
        Watch(MODEL_ENDPOINTS, wake.endpoint_and_adapters),
        Watch(ADAPTERS, wake.adapters.add, wake.index.seen),
        Watch(ADAPTERS, wake.endpoints.add, endpoint_of),
        Watch(DEPLOYMENTS, wake.endpoints.add, endpoint, labels=ENDPOINT_LABEL),
        Watch(CONFIG_MAPS, wake.endpoint_and_adapters, endpoint, labels=f"{RECORD_LABEL} in ({ROUTES_RECORD},{LEDGER_RECORD})"),
    ]


if __name__ == "__main__":
    sys.exit(main())
