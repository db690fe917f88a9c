"""The namespace of the demo, as its users handle it: bucket, Secrets, manifests, approvals."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from judging import tickets
from minio import Minio

from graft_devcluster import install, s3
from graft_devcluster.settings import Port, Settings

HERE = Path(__file__).parent
BUCKET = "graft-demo"
ENDPOINT, DOMAIN = "prod", "dsl"
ROWS = 1500
"""Of the training data."""
HELD_OUT = slice(600, 900)
"""Of the held-out rules: those that the job evaluates on. Clients ask others."""


@contextmanager
def embeddings(chosen: Settings) -> Iterator[None]:
    """A small embedding model for the checks of drift, where pods find it as http://embeddings.graft-dev.svc."""
    host, port = str(chosen.node_address), str(chosen.port(Port.EMBEDDINGS))
    command = [sys.executable, str(HERE / "embeddings.py"), "--host", host, "--port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


class Production:
    """One namespace, one bucket, one endpoint."""

    namespace = "demo"

    def __init__(self, chosen: Settings, tools: install.Tools) -> None:
        self.chosen, self.tools = chosen, tools
        self.world = chosen.cache / "demo"
        keys = s3.credentials(chosen)
        self.minio = Minio(s3.endpoint(chosen).removeprefix("http://"), keys.access_key, keys.secret_key, secure=False)

    def prepare(self) -> None:
        """World, bucket, namespace and Secrets. What an earlier demo left is removed, so that it starts from nothing."""
        subprocess.run([sys.executable, "-m", "world", "--out", str(self.world)], check=True, cwd=HERE)
        self.tools.run("kubectl", "delete", "namespace", self.namespace, "--ignore-not-found")
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self._apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace, "labels": labels}})
        self._fill_bucket()
        self._secret("s3", dict(install.s3_secret(self.chosen)))
        self._secret("signing-key", {"key.pem": self._signing_key()})

    def apply(self) -> None:
        """The manifests of `loop/`, with the public key that its adapters are signed by."""
        for file in sorted((HERE / "loop").glob("*.yaml")):
            for body in yaml.safe_load_all(file.read_text()):
                if body["kind"] == "ModelEndpoint":
                    body["spec"]["trustedKeys"] = [{"name": "demo", "pem": self.public_key.read_text()}]
                print(self._apply(body), end="")

    def upload_tickets(self, lines: str) -> None:
        """Put training data in the form of tickets into the bucket, in place of what is there."""
        self._put("data/tickets.jsonl", lines)

    def url(self) -> str:
        """Where the gateway is found from this machine, which is the cluster's node."""
        return f"http://{self._get('service', f'{ENDPOINT}-gateway')['spec']['clusterIP']}"

    def version(self, adapter: str) -> str:
        """What answers of an adapter are labelled with."""
        return str(self._get("adapter", adapter)["status"]["version"])

    def approve(self, user: str, adapter: str) -> None:
        """`kubectl graft approve`, as somebody. Says what it said."""
        done = self.graft(user, "approve", adapter, "--reason", "read the report")
        print(f"$ kubectl graft approve {adapter}   # {user}")
        print("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()), end="")

    def graft(self, user: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run graft's command line in the namespace, as a user."""
        configuration = json.loads(self.chosen.kubeconfig.read_text())
        for known in configuration["users"]:
            known["user"]["as"] = user
        theirs = self.chosen.state / f"{user}.kubeconfig"
        theirs.write_text(json.dumps(configuration))
        theirs.chmod(0o600)
        arguments = [str(Path(sys.executable).with_name("graft")), *command, "--namespace", self.namespace]
        environment = dict(self.tools.environment()) | {"KUBECONFIG": str(theirs)}
        return subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, env=environment)

    def kill_server(self) -> None:
        """Kill the only vLLM, with whatever it is at."""
        which = ("-l", f"graft.dev/modelendpoint={ENDPOINT},graft.dev/component=server")
        print("$ kubectl delete pod --force --grace-period=0 " + " ".join(which))
        self.tools.run("kubectl", "delete", "pod", "-n", self.namespace, "--force", "--grace-period=0", *which)

    @property
    def public_key(self) -> Path:
        """Public half of the demo's signing key."""
        return self.world / "signing-key.pub"

    def download(self, uri: str, folder: Path) -> Path:
        """Everything below a URI of the bucket."""
        prefix = uri.removeprefix(f"s3://{BUCKET}/").rstrip("/") + "/"
        for entry in self.minio.list_objects(BUCKET, prefix=prefix, recursive=True):
            self.minio.fget_object(BUCKET, entry.object_name, str(folder / entry.object_name.removeprefix(prefix)))
        return folder

    def _fill_bucket(self) -> None:
        if not self.minio.bucket_exists(BUCKET):
            self.minio.make_bucket(BUCKET)
        for left in self.minio.list_objects(BUCKET, recursive=True):
            self.minio.remove_object(BUCKET, left.object_name)
        for file in sorted(path for path in (self.world / "base").rglob("*") if path.is_file()):
            self.minio.fput_object(BUCKET, file.relative_to(self.world).as_posix(), str(file))
        for name, wanted in (("rules", slice(ROWS)), ("heldout", HELD_OUT)):
            lines = (self.world / "data" / f"{name}.jsonl").read_text().splitlines(keepends=True)
            self._put(f"data/{name}.jsonl", "".join(lines[wanted]))
        self.upload_tickets(tickets(self.world, wrong=True))

    def _put(self, key: str, text: str) -> None:
        body = text.encode()
        self.minio.put_object(BUCKET, key, io.BytesIO(body), len(body))

    def _signing_key(self) -> str:
        """A key of this demo alone; its public half stays beside the world, to verify with."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.public_key.write_bytes(public)
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()

    def _secret(self, name: str, data: dict[str, str]) -> None:
        self._apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})

    def _apply(self, body: dict[str, Any]) -> str:
        scope = () if body["kind"] == "Namespace" else ("-n", self.namespace)
        return self.tools.run("kubectl", "apply", *scope, "-f", "-", stdin=json.dumps(body))

    def _get(self, kind: str, name: str) -> dict[str, Any]:
        return dict(json.loads(self.tools.run("kubectl", "get", kind, name, "-n", self.namespace, "-o", "json")))
