"""The reports server beside a real API server: real tokens, real TLS, real conflicts."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from graft_api.reports import ClaimRequest
from graft_devcluster.apitier import free_ports
from graft_operator.engine.clock import SystemClock
from graft_operator.engine.errors import NotYet
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import CONFIG_MAPS, ENDPOINT_SLICES, JOBS, PODS, SECRETS, SERVICES, Object, Resource
from graft_operator.reports.ca import Trust
from graft_operator.reports.certificates import Material, SecretCertificate, service_names
from graft_operator.reports.chains import Foreign, Unauthenticated
from graft_operator.reports.fleet import Fleet
from graft_operator.reports.identity import Identities
from graft_operator.reports.server import ReportsServer
from graft_operator.reports.service import ReportsEndpoint
from graft_operator.reports.sink import Caller, Superseded
from graft_operator.reports.tls import ServingCertificate

CLOCK = SystemClock()


class TokenRequests(Resource):
    """A kind of one group that is served below the path of another."""

    @property
    def root(self) -> str:
        return "/api/v1"


def owner(api_version: str, kind: str, of: Object) -> list[Object]:
    metadata = of["metadata"]
    return [{"apiVersion": api_version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"], "controller": True}]


@pytest.fixture
async def pod(kube: Kube, namespace: str) -> Object:
    """A pod of a Job of a FineTuneJob, as the Job controller would have made it."""
    await Trust(kube, CLOCK, lambda: "pem").ensure(namespace, "of-an-object")
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "x"}]}}
    tune = {"metadata": {"name": "tune", "uid": "11111111-2222-3333-4444-555555555555"}}
    references = owner("graft.dev/v1alpha1", "FineTuneJob", tune)
    metadata = {"name": "tune-train", "namespace": namespace, "ownerReferences": references}
    job = await kube.create(JOBS, {"metadata": metadata, "spec": {"template": template}})
    metadata = {"name": "tune-train-abcde", "namespace": namespace, "ownerReferences": owner("batch/v1", "Job", job)}
    spec = {**template["spec"], "serviceAccountName": "graft-trainer", "automountServiceAccountToken": False}
    return await kube.create(PODS, {"metadata": metadata, "spec": spec})


async def token(kube: Kube, namespace: str, audience: str = "graft.dev", pod: Object | None = None) -> str:
    """As the kubelet asks for it."""
    resource = TokenRequests("authentication.k8s.io", "v1", "serviceaccounts/graft-trainer/token", "TokenRequest")
    spec: Object = {"audiences": [audience], "expirationSeconds": 600}
    if pod:
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
    answer = await kube.create(resource, {"metadata": {"namespace": namespace}, "spec": spec})
    return f"Bearer {answer['status']['token']}"


class TestIdentity:
    async def test_a_pods_token_proves_the_whole_chain(self, kube: Kube, namespace: str, pod: Object) -> None:
        caller = await Identities(kube, CLOCK).caller(await token(kube, namespace, pod=pod))
        assert (caller.namespace, caller.service_account) == (namespace, "graft-trainer")
        assert (caller.pod_name, caller.pod_uid) == ("tune-train-abcde", pod["metadata"]["uid"])
        assert (caller.job_name, caller.owner_name) == ("tune-train", "tune")
        assert caller.owner_uid == "11111111-2222-3333-4444-555555555555"
        assert caller.pod_created_at == pod["metadata"]["creationTimestamp"]

    async def test_tokens_that_prove_nothing(self, kube: Kube, namespace: str, pod: Object) -> None:
        identities = Identities(kube, CLOCK)
        with pytest.raises(Unauthenticated):
            await identities.caller("Bearer nonsense")
        with pytest.raises(Unauthenticated):
            await identities.caller(await token(kube, namespace, "https://kubernetes.default.svc.cluster.local", pod))
        with pytest.raises(Foreign, match="not bound to a pod"):
            await identities.caller(await token(kube, namespace))

    async def test_the_token_of_a_deleted_pod(self, kube: Kube, namespace: str, pod: Object) -> None:
        bearer = await token(kube, namespace, pod=pod)
        await kube.delete(PODS, namespace, "tune-train-abcde")
        with pytest.raises((Unauthenticated, Foreign)):
            await Identities(kube, CLOCK).caller(bearer)


class TestCertificate:
    @pytest.fixture
    async def secret(self, kube: Kube, namespace: str) -> str:
        await kube.create(SECRETS, {"metadata": {"name": "graft-reports-tls", "namespace": namespace}, "type": "Opaque"})
        return "graft-reports-tls"

    async def test_replicas_that_start_together_agree(self, kube: Kube, namespace: str, secret: str) -> None:
        replicas = [SecretCertificate(kube, CLOCK, namespace, secret, service_names("graft-reports", namespace)) for _ in range(8)]
        materials = await asyncio.gather(*(replica.current() for replica in replicas))
        assert len({material.chain for material in materials}) == 1
        assert (await replicas[0].current()) == materials[0]

    async def test_without_the_secret_it_says_what_to_do(self, kube: Kube, namespace: str) -> None:
        with pytest.raises(NotYet, match="helm upgrade"):
            await SecretCertificate(kube, CLOCK, namespace, "absent", ("x",)).current()

    async def test_a_broken_secret_is_made_anew(self, kube: Kube, namespace: str, secret: str) -> None:
        replica = SecretCertificate(kube, CLOCK, namespace, secret, service_names("graft-reports", namespace))
        first = await replica.current()
        await kube.merge_patch(SECRETS, namespace, secret, {"data": {"tls.key": "bm9uc2Vuc2U="}})
        second = await replica.current()
        assert second.chain != first.chain
        assert await replica.current() == second


class TestEndpoint:
    @pytest.fixture
    async def service(self, kube: Kube, namespace: str) -> Object:
        metadata = {"name": "graft-reports", "namespace": namespace}
        return await kube.create(SERVICES, {"metadata": metadata, "spec": {"ports": [{"name": "https", "port": 8443}]}})

    def endpoint(self, kube: Kube, namespace: str, ip: str) -> ReportsEndpoint:
        return ReportsEndpoint(kube, CLOCK, namespace, "graft-reports", f"pod-{ip}", ip)

    async def addresses(self, kube: Kube, namespace: str) -> list[str]:
        found = await kube.get(ENDPOINT_SLICES, namespace, "graft-reports")
        assert found is not None
        return [address for endpoint in found["endpoints"] for address in endpoint["addresses"]]

    async def test_it_follows_the_leader_and_never_goes_back(self, kube: Kube, namespace: str, service: Object) -> None:
        old, new = self.endpoint(kube, namespace, "10.0.0.1"), self.endpoint(kube, namespace, "10.0.0.2")
        await old.ensure(1)
        assert await self.addresses(kube, namespace) == ["10.0.0.1"]
        await new.ensure(2)
        assert await self.addresses(kube, namespace) == ["10.0.0.2"]
        await old.ensure(1)
        assert await self.addresses(kube, namespace) == ["10.0.0.2"]

    async def test_it_heals(self, kube: Kube, namespace: str, service: Object) -> None:
        leader = self.endpoint(kube, namespace, "10.0.0.1")
        await leader.ensure(5)
        await kube.merge_patch(ENDPOINT_SLICES, namespace, "graft-reports", {"endpoints": []})
        await leader.ensure(5)
        assert await self.addresses(kube, namespace) == ["10.0.0.1"]
        await kube.delete(ENDPOINT_SLICES, namespace, "graft-reports")
        await leader.ensure(5)
        assert await self.addresses(kube, namespace) == ["10.0.0.1"]

    async def test_it_writes_nothing_when_nothing_is_wrong(self, kube: Kube, namespace: str, service: Object) -> None:
        leader = self.endpoint(kube, namespace, "10.0.0.1")
        await leader.ensure(5)
        before = await kube.get(ENDPOINT_SLICES, namespace, "graft-reports")
        await leader.ensure(5)
        assert await kube.get(ENDPOINT_SLICES, namespace, "graft-reports") == before

    async def test_a_change_of_address_family(self, kube: Kube, namespace: str, service: Object) -> None:
        await self.endpoint(kube, namespace, "10.0.0.1").ensure(1)
        await self.endpoint(kube, namespace, "fd00::1").ensure(2)
        assert await self.addresses(kube, namespace) == ["fd00::1"]

    async def test_without_the_service_it_waits(self, kube: Kube, namespace: str) -> None:
        with pytest.raises(NotYet, match="helm upgrade"):
            await self.endpoint(kube, namespace, "10.0.0.1").ensure(1)


class Sink:
    """Grants attempt 1 to the first pod and nothing to others."""

    def __init__(self) -> None:
        self.holder: str | None = None

    async def claim(self, caller: Caller, namespace: str, name: str, request: ClaimRequest) -> int:
        if self.holder not in (None, caller.pod_uid):
            raise Superseded("taken")
        self.holder = caller.pod_uid
        return 1

    async def progress(self, *_: object) -> None: ...

    async def result(self, *_: object) -> None: ...


class TestServer:
    @pytest.fixture
    async def served(self, kube: Kube, namespace: str) -> AsyncIterator[tuple[int, Material]]:
        await kube.create(SECRETS, {"metadata": {"name": "graft-reports-tls", "namespace": namespace}})
        source = SecretCertificate(kube, CLOCK, namespace, "graft-reports-tls", service_names("graft-reports", namespace))
        certificate = ServingCertificate(source, CLOCK)
        await certificate.refresh()
        await Trust(kube, CLOCK, lambda: certificate.bundle).ensure(namespace, "of-an-object")
        server = ReportsServer(Sink(), Identities(kube, CLOCK), lambda: True, CLOCK, Fleet(CLOCK, lambda _: None))
        (port,) = free_ports(1)
        task = asyncio.create_task(server.run(certificate.context, "127.0.0.1", port))
        yield port, await source.current()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def test_a_pod_claims_with_its_token_and_the_authority_from_its_namespace(
        self, kube: Kube, namespace: str, served: tuple[int, Material], pod: Object, until: Any
    ) -> None:
        port, material = served
        # The pod's fixture applied another bundle; the operator's is what a pod would mount.
        await Trust(kube, CLOCK, lambda: material.bundle).ensure(namespace, "of-an-object")
        trusted = await kube.get(CONFIG_MAPS, namespace, "graft-ca")
        assert trusted is not None
        context = ssl.create_default_context(cadata=trusted["data"]["ca.crt"])
        headers = {"Authorization": await token(kube, namespace, pod=pod)}
        url = f"https://127.0.0.1:{port}/v1/namespaces/{namespace}/finetunejobs/tune"
        name = f"graft-reports.{namespace}.svc"
        async with aiohttp.ClientSession(headers=headers) as session:

            async def post(route: str, body: object) -> tuple[int, Any]:
                async with session.post(f"{url}/{route}", json=body, ssl=context, server_hostname=name) as answer:
                    return answer.status, await answer.json() if answer.status == 200 else None

            async def listening() -> bool:
                try:
                    return bool(await post("claim", {"jobUid": "x"}))
                except aiohttp.ClientConnectorError:
                    return False

            await until(listening)
            assert await post("claim", {"jobUid": "x"}) == (200, {"attempt": 1})
            assert (await post("progress", {"attempt": 1, "progress": {"stage": "train"}}))[0] == 204
            assert (await post("result", {"attempt": 1}))[0] == 204
            assert (await post("claim", {"jobUid": "x" * 70000}))[0] == 413
