"""One job that everything happens to still ends with exactly one complete artifact."""

import json
import subprocess
import time
from pathlib import Path


def pod_of(place, job):
    pods = place.items("pods", "-l", f"graft.dev/finetunejob={job}")
    running = [pod for pod in pods if pod["status"]["phase"] in {"Pending", "Running"} and "deletionTimestamp" not in pod["metadata"]]
    return running[-1]["metadata"]["name"] if running else None


def kill_process(pod_uid, argument):
    """kill -9 of the process that `argument` names, in this pod alone: no exec is needed, nor allowed, for that."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            group = (entry / "cgroup").read_text()
        except OSError:
            continue
        if pod_uid in group and f"graft-trainer {argument}" in command:
            subprocess.run(["kill", "-9", entry.name], check=False)
            return True
    return False


LONG = {"epochs": 20, "checkpoints": {"everySteps": 10, "keep": 2}}
"""120 steps, so that there is something to interrupt."""


def has_checkpoint(status):
    return ((status.get("progress") or {}).get("step") or 0) > 10


def test_killed_in_every_stage_a_job_publishes_once(place):
    place.apply(place.job("hard", backoffLimit=8, training=LONG))
    place.wait("hard", has_checkpoint, 300)
    place.tools.run("kubectl", "delete", "pod", pod_of(place, "hard"), "-n", place.name, "--force", "--grace-period=0")
    resumed = place.wait("hard", lambda s: s.get("attempt") == 2 and (s.get("progress") or {}).get("stage") == "evaluate", 300)
    uid = resumed["status"]["claim"]["podUID"]
    assert kill_process(uid, "train")
    status = place.ended("hard", 500)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["attempt"] >= 3
    assert status["resumedFromStep"] >= 10
    assert len(place.commits()) == 1
    assert status["artifact"]["digest"].startswith("sha256:")
    manifests = [key for key in place.objects("adapters/") if key.endswith("/artifact/manifest.json")]
    assert f"{status['artifact']['uri'].removeprefix(f's3://{place.bucket}/')}/manifest.json" in manifests


def test_an_operator_that_is_away_loses_nothing(place):
    """It goes while the job trains and comes back when the Job is long complete; no pod is left holding anything."""
    place.apply(place.job("alone", training=LONG))
    place.wait("alone", lambda s: (s.get("progress") or {}).get("stage") == "train", 300)
    place.tools.run("kubectl", "scale", "deployment", "-n", "graft-system", "--all", "--replicas=0")
    try:
        done = place.until(lambda: place.items("jobs"), lambda jobs: any(job["status"].get("succeeded") for job in jobs), 300)
        assert not [pod for pod in place.items("pods") if pod["status"]["phase"] == "Running"]
        assert "ttlSecondsAfterFinished" not in done[0]["spec"]
    finally:
        place.tools.run("kubectl", "scale", "deployment", "-n", "graft-system", "--all", "--replicas=1")
    status = place.ended("alone")
    assert status["phase"] == "Succeeded", status.get("failure")
    job = place.until(lambda: place.items("jobs"), lambda jobs: "ttlSecondsAfterFinished" in jobs[0]["spec"], 60)[0]
    assert job["spec"]["ttlSecondsAfterFinished"] == 604800


def test_suspend_resume_upgrade_and_restore(place, chosen, references, graft):
    place.apply(place.job("paused", training=LONG))
    place.wait("paused", has_checkpoint, 300)
    place.tools.run("kubectl", "patch", "finetunejob", "paused", "-n", place.name, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    place.wait("paused", lambda s: s["phase"] == "Suspended", 60)
    place.until(lambda: place.items("jobs"), lambda jobs: jobs == [], 90)
    place.apply(place.job("running", training=LONG))
    place.wait("running", lambda s: (s.get("progress") or {}).get("stage") == "train", 300)

    writes = upgrade(place, chosen, references)
    assert writes == []

    place.tools.run("kubectl", "patch", "finetunejob", "paused", "-n", place.name, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    status = place.ended("paused", 500)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["job"]["launch"] == 2
    assert status["resumedFromStep"] >= 10
    assert place.ended("running", 500)["phase"] == "Succeeded"

    restored(place, status)


def upgrade(place, chosen, references):
    """Upgrade the operator; the writes to this namespace's FineTuneJobs and Jobs that the audit log has of it."""
    from graft_devcluster import install

    seen = len(chosen.audit_log.read_text().splitlines())
    install.install(chosen, references, "logLevel=debug")
    time.sleep(5)  # a write that should not happen needs a while to not happen
    entries = [json.loads(line) for line in chosen.audit_log.read_text().splitlines()[seen:]]
    operator = "system:serviceaccount:graft-system:"
    return [
        (entry["verb"], entry["objectRef"]["resource"], entry["objectRef"].get("name"), entry["objectRef"].get("subresource"))
        for entry in entries
        if entry["user"]["username"].startswith(operator)
        and entry.get("objectRef", {}).get("namespace") == place.name
        and entry["verb"] in {"create", "update", "patch", "delete"}
        and entry["objectRef"].get("name") != "running"  # its progress goes on
        and entry["objectRef"]["resource"] in {"finetunejobs", "jobs", "pods"}
    ]


def restored(place, before):
    """The namespace deleted and restored without status: the committed result is reported again, nothing trains."""
    left = {name: entry.etag for name, entry in place.objects("adapters/").items()}
    place.tools.run("kubectl", "delete", "namespace", place.name, "--wait=true", "--timeout=120s")
    place.create_namespace()
    place.apply(place.job("paused", training=LONG))
    status = place.ended("paused", 200)
    assert status["phase"] == "Succeeded", status.get("failure")
    assert status["artifact"] == before["artifact"]
    assert status["outcome"]["earlierRun"] is True
    assert {name: entry.etag for name, entry in place.objects("adapters/").items()} == left
