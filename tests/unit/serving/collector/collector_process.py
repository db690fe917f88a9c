"""The collector as a process of its own, and the cluster around it."""

import asyncio
import json
import os
import sys
import time

import jwt
from aiohttp import web
from aiohttp.test_utils import unused_port
from cryptography.hazmat.primitives.asymmetric import rsa

from graft_serving.agent.cluster_keys import DISCOVERY_PATH, KEYS_PATH

ISSUER = "https://kubernetes.default.svc"
KEY = rsa.generate_private_key(65_537, 2048)


def token(**changes):
    now = time.time()
    claims = {
        "iss": ISSUER,
        "aud": ["graft.dev/collector/prod"],
        "sub": "system:serviceaccount:team:graft-gateway-prod",
        "iat": now,
        "exp": now + 600,
        "kubernetes.io": {"namespace": "team", "serviceaccount": {"name": "graft-gateway-prod"}},
    }
    return jwt.encode({**claims, **changes}, KEY, "RS256", headers={"kid": "k"})


class Cluster:
    """An API server that publishes its keys and the settings, and an operator."""

    def __init__(self):
        self.reports = []
        self.documents = []
        """What the settings were, oldest first; none: nobody may read them."""
        self.label = "collector"

    def application(self):
        made = web.Application()
        made.router.add_get(DISCOVERY_PATH, self._discovery)
        made.router.add_get(KEYS_PATH, self._keys)
        made.router.add_get("/api/v1/namespaces/team/configmaps", self._settings)
        made.router.add_post("/v1/namespaces/team/modelendpoints/prod/collector", self._report)
        return made

    async def _discovery(self, _):
        return web.json_response({"issuer": ISSUER})

    async def _keys(self, _):
        published = jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        return web.json_response({"keys": [{**published, "kid": "k", "use": "sig", "alg": "RS256"}]})

    def say(self, document):
        """Settings from now on."""
        self.documents.append(json.dumps(document.to_json()))

    async def _settings(self, request):
        assert request.query["fieldSelector"] == "metadata.name=prod-collector"
        if not self.documents:
            return web.Response(status=403)
        if "watch" not in request.query:
            return web.json_response(
                {"metadata": {"resourceVersion": str(len(self.documents))}, "items": [self._record(self.documents[-1])]}
            )
        told, response = int(request.query["resourceVersion"]), web.StreamResponse()
        await response.prepare(request)
        while True:
            for told, document in enumerate(self.documents[told:], told + 1):  # noqa: B020 - from where it is
                record = self._record(document)
                record["metadata"]["resourceVersion"] = str(told)
                await response.write(json.dumps({"type": "MODIFIED", "object": record}).encode() + b"\n")
            await asyncio.sleep(0.01)

    def _record(self, document):
        return {"metadata": {"name": "prod-collector", "labels": {"graft.dev/record": self.label}}, "data": {"collector.json": document}}

    async def _report(self, request):
        self.reports.append((request.headers["Authorization"], await request.json()))
        return web.Response(status=204)


class Program:
    """The process; started again whenever it is killed."""

    def __init__(self, tmp_path, cluster_url, document, **environment):
        (tmp_path / "collector.json").write_text(json.dumps(document.to_json()))
        for name in ("run", "reports"):
            (tmp_path / name).mkdir()
        (tmp_path / "reports/token").write_text("report-token")
        self.port, self.health_port = unused_port(), unused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "GRAFT_NAMESPACE": "team",
            "GRAFT_ENDPOINT": "prod",
            "GRAFT_POD_NAME": "collector-a",
            "GRAFT_API_SERVER": cluster_url,
            "GRAFT_REPORTS_URL": cluster_url,
            "GRAFT_REPORTS_DIRECTORY": str(tmp_path / "reports"),
            "GRAFT_RUN_DIRECTORY": str(tmp_path / "run"),
            "GRAFT_COLLECTOR_SETTINGS": str(tmp_path / "collector.json"),
            "GRAFT_COLLECTOR_HOST": "127.0.0.1",
            "GRAFT_COLLECTOR_PORT": str(self.port),
            "GRAFT_COLLECTOR_HEALTH_PORT": str(self.health_port),
            **environment,
        }
        self.log = (tmp_path / "log").open("ab")
        self.process = None

    async def start(self):
        command = [sys.executable, "-m", "graft_serving.main", "collector"]
        """Begin; a process that is still there is a mistake of the test's."""
        assert self.process is None or self.process.returncode is not None
        self.process = await asyncio.create_subprocess_exec(*command, env=self.environment, stdout=self.log, stderr=self.log)

    async def end(self, number):
        self.process.send_signal(number)
        return await self.process.wait()

    async def metrics(self, session):
        async with session.get(f"http://127.0.0.1:{self.health_port}/metrics") as response:
            return await response.text()
