"""The operator of this checkout as a process against an API tier, with the rights and policies of the chart: for tests and benchmarks.

It has the chart's service account and nothing more, so what the RBAC forgets fails here as it would in a cluster.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from graft_devcluster.apitier import ApiServer
from graft_devcluster.settings import cache_root
from graft_devcluster.tools import Toolbox

ROOT = Path(__file__).parents[2]
NAMESPACE = "graft-system"
_KINDS_WITHOUT_A_NODE = {"Deployment", "PodDisruptionBudget", "ServiceMonitor"}


class LocalOperator:
    """`with LocalOperator(server, folder) as operator:` -- applies the chart, then runs the operator until the end."""

    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.log = folder / "operator.log"
        self.health_port, self.reports_port = _free_port(), _free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LocalOperator:
        self.apply_chart()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process:
            self.stop()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the cluster's admin."""
        command = ["kubectl", "--kubeconfig", str(self.server.kubeconfig), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply_chart(self) -> None:
        """Everything of the chart but what needs a node."""
        helm = Toolbox(cache_root()).path("helm")
        command = [str(helm), "template", "graft", str(ROOT / "charts/graft"), "--namespace", NAMESPACE, "--kube-version", "1.34.0"]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        objects = [entry for entry in yaml.safe_load_all(rendered) if entry and entry["kind"] not in _KINDS_WITHOUT_A_NODE]
        namespace: dict[str, Any] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
        definitions = [entry for entry in objects if entry["kind"] == "CustomResourceDefinition"]
        others = [entry for entry in objects if entry["kind"] != "CustomResourceDefinition"]
        self._apply([namespace, *definitions])
        self.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", *(entry["metadata"]["name"] for entry in definitions))
        self._apply(others)
        policies = next(entry for entry in objects if entry["kind"] == "ConfigMap" and "policies.yaml" in entry.get("data", {}))
        (self.folder / "policies.yaml").write_text(policies["data"]["policies.yaml"])

    def start(self) -> None:
        """Start the process and wait until it leads."""
        environment = dict(os.environ) | {
            "KUBECONFIG": str(self.kubeconfig()),
            "GRAFT_NAMESPACE": NAMESPACE,
            "GRAFT_POD_NAME": "local",
            "GRAFT_POD_IP": "127.0.0.2",
            "GRAFT_TRAINER_IMAGE": "graft.dev/trainer:test",
            "GRAFT_SERVING_IMAGE": "graft.dev/serving:test",
            "GRAFT_VLLM_IMAGE": "graft.dev/vllm:test",
            "GRAFT_POLICIES_FILE": str(self.folder / "policies.yaml"),
            "GRAFT_HEALTH_PORT": str(self.health_port),
            "GRAFT_REPORTS_PORT": str(self.reports_port),
        }
        with self.log.open("ab") as log:
            said = log.tell()
            self.process = subprocess.Popen([sys.executable, "-m", "graft_operator.main"], env=environment, stdout=log, stderr=log)
        self._wait_until_leading(said)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the process; its exit status."""
        process, self.process = self._running(), None
        process.send_signal(number)
        return process.wait(timeout=60)

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError("the operator is not running")
        return self.process

    def _wait_until_leading(self, said: int) -> None:
        """Until this process does: before its first word the log had `said` bytes."""
        process = self._running()
        deadline = time.monotonic() + 60
        while b'"leading"' not in self.log.read_bytes()[said:]:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the operator does not lead: {self.log.read_text()[-3000:]}")
            time.sleep(0.05)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    def kubeconfig(self) -> Path:
        """Write down the operator's own credentials, a token of its account; the file."""
        token = self.kubectl("create", "token", "graft-operator", "-n", NAMESPACE, "--duration=12h").strip()
        document = yaml.safe_load(self.server.kubeconfig.read_text())
        document["users"] = [{"name": "operator", "user": {"token": token}}]
        document["contexts"][0]["context"]["user"] = "operator"
        path = self.folder / "operator.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def _apply(self, objects: list[dict[str, Any]]) -> None:
        self.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
