"""The demo, top to bottom: a cluster, the chart, a small world, one FineTuneJob, and its adapter in production.

Every step is what a user would do by hand; the commands are printed as they are run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from minio import Minio
from serve import Served

from graft_devcluster import cluster, images, install, s3, settings
from graft_devcluster.settings import Settings

HERE = Path(__file__).parent
NAMESPACE = "demo"
BUCKET = "graft-demo"
JOB = "dsl-rules"


def main() -> int:
    started = time.monotonic()
    chosen = settings.requested(None, None, None)
    tools = install.Tools(chosen)
    step("Kubernetes: etcd, API server, kubelet, containerd, S3")
    with cluster.locked(chosen):
        cluster.up_node(chosen, [])
    step("Images: operator, trainer, serving, vLLM for CPU")
    references = images.ensure_images(["operator", "trainer", "serving", "vllm-cpu"], load=True)
    step("Chart: helm upgrade --install graft charts/graft")
    install.install(chosen, references)
    step("A small world: access rules in English and CEL, and a model that learned an older dialect")
    world = make_world(chosen)
    store = Demo(chosen, tools)
    store.prepare(world)
    step("kubectl apply -f examples/dsl/")
    print(tools.run("kubectl", "apply", "-n", NAMESPACE, "-f", str(HERE)), end="")
    job = store.follow()
    store.report(job, chosen)
    better = False
    if job["status"]["phase"] == "Succeeded":
        step("Serve it: trust the key, pin the adapter")
        adapter = job["status"]["adapterRef"]["name"]
        served = Served(tools, NAMESPACE)
        served.trust_and_pin(adapter, store.public_key)
        served.follow(adapter)
        step(f"Ask base and adapter through the gateway at {served.url()}")
        better = served.compare(world / "data" / "heldout.jsonl", adapter)
        print("\nLook at it:")
        print(f"  kubectl -n {NAMESPACE} get modelendpoints,adapters,pods")
        print(f"  kubectl -n {NAMESPACE} describe modelendpoint prod")
    print(f"\nThe demo took {time.monotonic() - started:.0f} s.")
    return 0 if better else 1


def step(title: str) -> None:
    print(f"\n==> {title}", flush=True)


def make_world(chosen: Settings) -> Path:
    out = chosen.cache / "demo"
    command = [sys.executable, "-m", "world", "--out", str(out)]
    subprocess.run(command, check=True, cwd=HERE)
    return out


class Demo:
    """One namespace, one bucket, one job."""

    def __init__(self, chosen: Settings, tools: install.Tools) -> None:
        self.chosen = chosen
        self.tools = tools
        keys = s3.credentials(chosen)
        self.minio = Minio(s3.endpoint(chosen).removeprefix("http://"), keys.access_key, keys.secret_key, secure=False)

    def prepare(self, world: Path) -> None:
        """Bucket, namespace and Secrets. What an earlier demo left is removed, so that it starts from nothing."""
        self.tools.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found")
        self.tools.run("kubectl", "apply", "-f", "-", stdin=json.dumps(self.namespace()))
        if not self.minio.bucket_exists(BUCKET):
            self.minio.make_bucket(BUCKET)
        for left in self.minio.list_objects(BUCKET, recursive=True):
            self.minio.remove_object(BUCKET, left.object_name)
        for file in sorted(path for part in ("base", "data") for path in (world / part).rglob("*") if path.is_file()):
            self.minio.fput_object(BUCKET, file.relative_to(world).as_posix(), str(file))
        for secret in self.secrets():
            self.tools.run("kubectl", "apply", "-f", "-", stdin=json.dumps(secret))

    def namespace(self) -> dict[str, object]:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}

    def secrets(self) -> list[dict[str, object]]:
        keys = {"s3": dict(install.s3_secret(self.chosen)), "signing-key": {"key.pem": self.signing_key()}}
        return [
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data}
            for name, data in keys.items()
        ]

    def signing_key(self) -> str:
        """A key of this demo alone; its public half stays beside the world, to verify with."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.public_key.write_bytes(public)
        plain = serialization.NoEncryption()
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()

    @property
    def public_key(self) -> Path:
        return self.chosen.cache / "demo" / "signing-key.pub"

    def follow(self) -> dict[str, object]:
        """Print what changes until the job has ended."""
        said = ""
        began = time.monotonic()
        while True:
            job = json.loads(self.tools.run("kubectl", "get", "finetunejob", JOB, "-n", NAMESPACE, "-o", "json"))
            line = describe(job.get("status", {}))
            if line != said:
                print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)
                said = line
            if job.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
                return job
            time.sleep(0.5)

    def report(self, job: dict, chosen: Settings) -> None:
        """Say what came of it and how to look at it."""
        status = job["status"]
        if status["phase"] != "Succeeded":
            print(f"\n{status['failure']['reason']}: {status['failure']['message']}")
            print(f"  kubectl -n {NAMESPACE} describe finetunejob {JOB}")
            return
        for result in status["evaluation"]:
            print(f"\n{result['suite']}: {result['metric']} on {result['examples']} held-out rules that are in no training set")
            for who in ("base", "adapter", "difference"):
                share = result[who]
                print(f"  {who:<12}{share['estimate']:8.2%}   95 % interval {share['low']:7.2%} .. {share['high']:.2%}")
            print(f"  {result['message']}")
        stages = "  ".join(f"{name} {seconds:.0f} s" for name, seconds in status.get("stageSeconds", {}).items())
        print(f"\nstages    {stages}")
        print(f"artifact  {status['artifact']['uri']}")
        print(f"digest    {status['artifact']['digest']}")
        folder = chosen.cache / "demo" / "artifact"
        self.download(status["artifact"]["uri"], folder)
        print("\nLook at it:")
        print('  eval "$(PYTHONPATH=devcluster python3 -m graft_devcluster env)"')
        print(f"  kubectl -n {NAMESPACE} get finetunejobs,adapters,jobs,pods")
        print(f"  kubectl -n {NAMESPACE} describe finetunejob {JOB}")
        print(f"  ls {folder}")
        print(f"  .venv/bin/model_signing verify key {folder} --signature {folder}/model.sig --public_key {self.public_key}")

    def download(self, uri: str, folder: Path) -> None:
        prefix = uri.removeprefix(f"s3://{BUCKET}/") + "/"
        for entry in self.minio.list_objects(BUCKET, prefix=prefix, recursive=True):
            self.minio.fget_object(BUCKET, entry.object_name, str(folder / entry.object_name.removeprefix(prefix)))


def describe(status: dict) -> str:
    """One line that answers "how is it going"."""
    progress = status.get("progress") or {}
    ready = next((c for c in status.get("conditions", []) if c["type"] == "Ready"), {})
    if status.get("phase") != "Running" or not progress:
        return f"{status.get('phase', 'New'):<10} {ready.get('message', '')}"
    parts = [f"{status['phase']:<10} {progress['stage']:<9}"]
    if progress.get("totalSteps"):
        parts.append(f"step {progress.get('step', 0)}/{progress['totalSteps']}")
    parts += [f"{name} {progress[key]:.4g}" for name, key in (("loss", "loss"), ("eval loss", "evalLoss")) if progress.get(key) is not None]
    if progress.get("etaSeconds"):
        parts.append(f"{progress['etaSeconds']} s to go")
    return "  ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
