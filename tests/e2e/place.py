"""What a story happens in: a namespace with Secrets, a bucket with a model and a little data."""

from __future__ import annotations

import copy
import json
import subprocess
import time
import uuid
from functools import partial
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from graft_devcluster import install

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "dsl"


def merge(body, change):
    merged = copy.deepcopy(body)
    for key, value in change.items():
        merged[key] = merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def wait_for(read, until, seconds, poll=0.3):
    deadline = time.monotonic() + seconds
    while True:
        seen = read()
        if until(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; last seen: {json.dumps(seen.get('status', seen), indent=1)[:4000]}")
        time.sleep(poll)


def kill_process(pod_uid, words, when=lambda process: True):
    """
    kill -9 of the process of this pod whose command line has these words, from the host: no exec is needed, nor allowed, for that.
    With `when`, only if that holds for its folder in /proc. True, once it is dead, if there was one.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            group = (entry / "cgroup").read_text()
        except OSError:
            continue
        if pod_uid in group and words in command and when(entry):
            subprocess.run(["kill", "-9", entry.name], check=False)
            wait_for(partial(life, entry), lambda seen: seen["state"] in {"dead", "Z", "X"}, 60, 0.005)
            return True
    return False


def life(process):
    """
    Of a process that was killed. Its sockets close with the last of its threads, and a thread needs a processor to die: until then the
    kernel takes connections for it, which nobody answers.
    """
    try:
        if len(list((process / "task").iterdir())) > 1:
            return {"state": "dying"}
        return {"state": (process / "stat").read_text().rpartition(")")[2].split()[0]}
    except OSError:
        return {"state": "dead"}


class Place:
    """A namespace with Secrets, a bucket with a model and a little data."""

    def __init__(self, tools, store, chosen, world):
        self.tools, self.store, self.chosen, self.world = tools, store, chosen, world
        self.name = self.bucket = f"e2e-{uuid.uuid4().hex[:8]}"
        self.key = ec.generate_private_key(ec.SECP256R1())

    until = staticmethod(wait_for)

    def restrict_namespace(self):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}})

    def create_namespace(self):
        self.restrict_namespace()
        pem = self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        self.secret("signing-key", {"key.pem": pem.decode()})
        self.secret("s3", dict(install.s3_secret(self.chosen)))

    def secret(self, name, data):
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": self.name}, "stringData": data})

    def fill_bucket(self, rows=192, heldout=48):
        self.store.make_bucket(self.bucket)
        for file in sorted((self.world / "base").rglob("*")):
            if file.is_file():
                self.store.fput_object(self.bucket, file.relative_to(self.world).as_posix(), str(file))
        self.put_lines("data/rules.jsonl", (self.world / "data/rules.jsonl").read_text().splitlines()[:rows])
        self.put_lines("data/heldout.jsonl", (self.world / "data/heldout.jsonl").read_text().splitlines()[:heldout])

    def put_lines(self, key, lines):
        import io

        body = ("\n".join(lines) + "\n").encode()
        self.store.put_object(self.bucket, key, io.BytesIO(body), len(body))

    def apply(self, resource):
        self.tools.run("kubectl", "apply", "-f", "-", stdin=json.dumps(resource))

    def job(self, name, **spec):
        """A small job: 6 steps an epoch; checkpoints every 2 steps."""
        body = yaml.safe_load((EXAMPLE / "finetunejob.yaml").read_text())
        body["metadata"] = {"name": name, "namespace": self.name}
        base = body["spec"]
        base["baseModel"] = {"uri": f"s3://{self.bucket}/base"}
        base["output"] = {"uri": f"s3://{self.bucket}/adapters"}
        base["training"] |= {"epochs": 1, "checkpoints": {"everySteps": 2, "keep": 2}, "logEverySteps": 1}
        base["dataset"] = {
            "sources": [{"uri": f"s3://{self.bucket}/data/rules.jsonl"}],
            "minExamples": 50,
            "holdout": {"uri": f"s3://{self.bucket}/data/heldout.jsonl"},
            "validation": {"fraction": "0.05"},
        }
        base["evaluation"]["suites"][0]["accept"] = {"metric": "error_rate", "max": "1"}
        # Room for an operator that is killed: pods that wait for its grant must not keep it from being scheduled again.
        base["podTemplate"] = {"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "8Gi"}}}
        return merge(body, {"spec": spec})

    def get(self, kind, name):
        return json.loads(self.tools.run("kubectl", "get", kind, name, "-n", self.name, "-o", "json"))

    def items(self, kind, *arguments):
        return json.loads(self.tools.run("kubectl", "get", kind, "-n", self.name, "-o", "json", *arguments))["items"]

    def wait(self, name, until, seconds=400):
        """The FineTuneJob as soon as `until(status)` holds; fails with the last status."""

        def settled(job):
            status = job.get("status", {})
            # A job that has ended will not do what the test waits for: say so at once.
            return until(status) or status.get("phase") in {"Succeeded", "Failed"}

        job = wait_for(lambda: self.get("finetunejob", name), settled, seconds)
        assert until(job["status"]), f"ended without it: {json.dumps(job['status'], indent=1)[:3000]}"
        return job

    def ended(self, name, seconds=400):
        return self.wait(name, lambda status: status.get("phase") in {"Succeeded", "Failed"}, seconds)["status"]

    def objects(self, prefix=""):
        return {entry.object_name: entry for entry in self.store.list_objects(self.bucket, prefix=prefix, recursive=True)}

    def commits(self):
        return [key for key in self.objects("adapters/") if key.endswith("/commit.json")]
