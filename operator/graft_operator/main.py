"""
The operator process, top to bottom: the one place where its parts are put together.

Every replica watches, and serves reports (503 until it leads) and health; the leader reconciles and points the reports
Service at itself.
"""

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from uuid import uuid4

from prometheus_client import CollectorRegistry, Gauge

from graft_api.dataplane import COLLECTOR_RECORD, COMPONENT_LABEL, ENDPOINT_LABEL, LEDGER_RECORD, RECORD_LABEL, ROUTES_RECORD
from graft_api.health import SHADOW_TERMINAL, TERMINAL
from graft_operator.adapter.index import AdapterIndex, adapter_of, endpoint_of
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
from graft_operator.engine.resources import (
    ADAPTER_APPROVALS,
    ADAPTERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    FINE_TUNE_JOBS,
    JOBS,
    MODEL_ENDPOINTS,
    PODS,
    SHADOW_TESTS,
    TUNING_POLICIES,
    Resource,
)
from graft_operator.engine.resync import Resync, ResyncSource
from graft_operator.engine.watch import Watch, Watcher, owner_key
from graft_operator.finetunejob.claims import Claims
from graft_operator.finetunejob.observed import Settings
from graft_operator.finetunejob.reconcile import FineTuneJobs
from graft_operator.modelendpoint.applied import Applied
from graft_operator.modelendpoint.audit import Audit
from graft_operator.modelendpoint.children import APPLIED, Platform
from graft_operator.modelendpoint.metrics import PromotionMetrics
from graft_operator.modelendpoint.observe import Hearsay
from graft_operator.modelendpoint.reconcile import ModelEndpoints
from graft_operator.modelendpoint.unfinished import Unfinished
from graft_operator.reports.ca import Trust
from graft_operator.reports.certificates import CertificateSource, FileCertificate, SecretCertificate, service_names
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.identity import Identities
from graft_operator.reports.policies import PolicyGuard, load_expected
from graft_operator.reports.server import ReportsServer
from graft_operator.reports.service import ReportsEndpoint
from graft_operator.reports.tls import ServingCertificate
from graft_operator.shadowtest.index import ShadowIndex, production_of
from graft_operator.shadowtest.reconcile import ShadowTests
from graft_operator.tuningpolicy.evaluating import Evaluations
from graft_operator.tuningpolicy.index import LaunchedJobs
from graft_operator.tuningpolicy.metrics import PolicyMetrics
from graft_operator.tuningpolicy.prometheus import Prometheus, Server
from graft_operator.tuningpolicy.reconcile import TuningPolicies
from graft_runtime.environment import MissingSetting
from graft_runtime.health import Checks, HealthServer
from graft_runtime.logs import configure_logging
from graft_runtime.process import Service, run_process

LOG = logging.getLogger(__name__)

RECORDS = f"{RECORD_LABEL} in ({ROUTES_RECORD},{LEDGER_RECORD},{COLLECTOR_RECORD})"
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
    wake = Wake(AdapterIndex(), ShadowIndex(), *(WorkQueue(clock, random) for _ in range(3)))
    fleet = Fleet(clock, wake.all_of)
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
        audit=Audit(PromotionMetrics(registry)),
    )
    adapters = Adapters(leader, clock, events, hearsay)
    tests = ShadowTests(leader, clock, events, guard, hearsay)
    evaluations = Evaluations(leader, clock, Prometheus(), prometheus_of(config))
    policies = TuningPolicies(leader, clock, events, guard, hearsay, evaluations, PolicyMetrics(registry))
    metrics, queue, launching = ReconcileMetrics(registry), WorkQueue(clock, random), WorkQueue(clock, random)
    controllers = [
        Controller("finetunejob", jobs.reconcile, queue, clock, metrics),
        Controller("modelendpoint", endpoints.reconcile, wake.endpoints, clock, metrics),
        Controller("adapter", adapters.reconcile, wake.adapters, clock, metrics),
        Controller("shadowtest", tests.reconcile, wake.tests, clock, metrics),
        Controller("tuningpolicy", policies.reconcile, launching, clock, metrics),
    ]
    process: LedProcess

    def take_signals() -> None:
        process.take_signals()

    watched = [*watches(queue, wake), *child_watches(wake, endpoints.applied), *policy_watches(launching)]
    watcher = Watcher(kube, watched, clock, random, config.watch_namespaces, on_spawned=take_signals)
    namespaces = config.watch_namespaces or (None,)
    listed = [*sources(queue, wake, namespaces), *(ResyncSource(TUNING_POLICIES, launching, Selection(one)) for one in namespaces)]
    resync = Resync(kube, listed, clock, random)
    dropped = Gauge("graft_reports_dropped", "Progress reports that were not written, for want of room.", registry=registry)
    dropped.set_function(lambda: reports.coalescer.dropped)
    unheard = Gauge("graft_fleet_reports_dropped", "Reports of the data plane for which there was no room.", registry=registry)
    unheard.set_function(lambda: fleet.dropped)
    absent = Gauge("graft_policies_missing", "Admission policies of the chart that are not in force.", registry=registry)
    absent.set_function(lambda: len(guard.known_missing))
    checks = Checks(
        live={"watches": lambda: ", ".join(watcher.streams.stalled()) or None},
        ready={"certificate": certificate.problem, "process": lambda: "stopping" if process.stopping else None},
    )
    process = LedProcess(
        always=[
            Service("health", HealthServer(registry, checks, "", config.health_port).run),
            Service("certificate", certificate.run),
            Service("reports", lambda: reports.run(certificate.context, port=config.reports_port)),
            Service("watches", watcher.run),
        ],
        leading=[
            *map(controller_service, controllers),
            Service("resync", resync.run),
            Service("reports endpoint", lambda: endpoint.run(leadership.epoch)),
        ],
        leadership=leadership,
        prepared=watcher.listed,
    )
    return process


def certificate_source(config: Config, kube: Kube, clock: SystemClock) -> CertificateSource:
    """cert-manager's files if they are mounted, else our own Secret."""
    if config.reports_certificate_folder:
        return FileCertificate(config.reports_certificate_folder)
    names = service_names(config.reports_service, config.namespace)
    return SecretCertificate(kube, clock, config.namespace, config.reports_secret, names)


def prometheus_of(config: Config) -> Server | None:
    """Where TuningPolicies ask that name no server; None: nowhere."""
    if not config.prometheus_url:
        return None
    return Server(
        config.prometheus_url, token_file=config.prometheus_token_file, authority_file=config.prometheus_authority_file, anywhere=True
    )


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
    shadows: ShadowIndex
    endpoints: WorkQueue
    adapters: WorkQueue
    tests: WorkQueue

    def all_of(self, endpoint: Key) -> None:
        """The endpoint, all adapters that name it, and all tests of these; and the test whose shadow server it is."""
        self.endpoints.add(endpoint)
        self.index.wake(endpoint, self.adapters.add)
        self.index.wake(endpoint, self.tests_of)
        self.shadows.wake_of_shadow(endpoint, self.tests.add)

    def endpoints_of(self, adapter: Key) -> None:
        """The endpoint that an adapter names, whose arbiter counts what is said of it."""
        self.index.wake_endpoints(adapter, self.endpoints.add)

    def tests_of(self, adapter: Key) -> None:
        """All tests of an adapter."""
        self.shadows.wake_of_adapter(adapter, self.tests.add)


def sources(jobs: WorkQueue, wake: Wake, namespaces: Sequence[str | None]) -> list[ResyncSource]:
    """
    What is looked at again now and then, in case that a watch lost it.

    Jobs and tests only until they end: a test that waits for its report looks for it itself, and a new leader lists everything. An
    approval that a watch lost is found by its endpoint, which reads them all.
    """
    kinds: list[tuple[Resource, WorkQueue, Sequence[str]]] = [
        (FINE_TUNE_JOBS, jobs, sorted(TERMINAL)),
        (SHADOW_TESTS, wake.tests, sorted(SHADOW_TERMINAL)),
        (MODEL_ENDPOINTS, wake.endpoints, []),
        (ADAPTERS, wake.adapters, []),
    ]
    return [
        ResyncSource(resource, queue, Selection(namespace, fields=",".join(f"status.phase!={phase}" for phase in left_out)))
        for resource, queue, left_out in kinds
        for namespace in namespaces
    ]


def watches(jobs: WorkQueue, wake: Wake) -> list[Watch]:
    """What wakes whom: an object itself, and its children by label. One kind has one stream, and so one selector."""
    job, endpoint, test = owner_key("FineTuneJob"), owner_key("ModelEndpoint"), owner_key("ShadowTest")
    return [
        Watch(FINE_TUNE_JOBS, jobs.add),
        Watch(JOBS, jobs.add, job, labels=COMPONENT_LABEL),
        Watch(JOBS, wake.endpoints.add, endpoint, labels=COMPONENT_LABEL),
        Watch(PODS, jobs.add, job, labels=COMPONENT_LABEL),
        Watch(PODS, wake.all_of, endpoint, labels=COMPONENT_LABEL),
        Watch(MODEL_ENDPOINTS, wake.all_of),
        Watch(ADAPTERS, wake.adapters.add, wake.index.seen),
        Watch(ADAPTERS, wake.endpoints.add, endpoint_of),
        Watch(ADAPTERS, wake.tests_of),
        Watch(SHADOW_TESTS, wake.tests.add, wake.shadows.seen),
        Watch(SHADOW_TESTS, wake.endpoints.add, production_of),
        Watch(SHADOW_TESTS, wake.endpoints.add, endpoint),
        Watch(ADAPTER_APPROVALS, wake.endpoints_of, adapter_of),
        Watch(MODEL_ENDPOINTS, wake.tests.add, test),
        Watch(DEPLOYMENTS, wake.endpoints.add, endpoint, labels=ENDPOINT_LABEL),
        Watch(CONFIG_MAPS, wake.all_of, endpoint, labels=RECORDS),
        Watch(CONFIG_MAPS, wake.endpoints.add_first, Unfinished().endpoint_of, labels=RECORDS),
    ]


def child_watches(wake: Wake, applied: Applied) -> list[Watch]:
    """What wakes an endpoint because it was changed or deleted by hand. The endpoint's own writes do not."""
    return [
        Watch(resource, wake.endpoints.add, partial(applied.strayed, kind), RECORDS if resource is CONFIG_MAPS else ENDPOINT_LABEL)
        for kind, resource in APPLIED.items()
    ]


def policy_watches(policies: WorkQueue) -> list[Watch]:
    """What wakes a TuningPolicy: itself, and its jobs. It reads its criteria by the clock."""
    return [Watch(TUNING_POLICIES, policies.add), Watch(FINE_TUNE_JOBS, policies.add, LaunchedJobs().changed)]


if __name__ == "__main__":
    sys.exit(main())
