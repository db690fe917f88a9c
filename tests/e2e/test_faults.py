"""One job that everything happens to still ends with exactly one complete artifact."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

from place import kill_process


def pod_of(place, job):
    pods = place.items("pods", "-l", f"graft.dev/finetunejob={job}")
    running = [pod for pod in pods if pod["status"]["phase"] in {"Pending", "Running"} and "deletionTimestamp" not in pod["metadata"]]
    return running[-1]["metadata"]["name"] if running else None


def stage_of(process):
    """The stage that the trainer in this process is in, read from the file that it replaces atomically."""
    try:
        return json.loads((process / "root/graft/work/progress.json").read_bytes())["stage"]
    except OSError:
        return None


def kill_at_first_sight(place, job, verb, not_in=(), stage=None):
    """
    Kill the container's process as soon as it is there; the uid of its pod.
    With `stage`, only while its own progress file says so: what is reported is coalesced and may skip a short stage.
    """

    def in_stage(process):
        return stage is None or stage_of(process) == stage

    def kill():
        pods = place.items("pods", "-l", f"graft.dev/finetunejob={job}")
        uids = [pod["metadata"]["uid"] for pod in pods if pod["metadata"]["uid"] not in not_in]
        return next(({"uid": uid} for uid in uids if kill_process(uid, f"graft-trainer {verb}", in_stage)), {})

    return place.until(kill, lambda seen: "uid" in seen, 300)["uid"]


LONG = {"epochs": 20, "checkpoints": {"everySteps": 10, "keep": 2}}
"""120 steps, so that there is something to interrupt."""


def has_checkpoint(status):
    return ((status.get("progress") or {}).get("step") or 0) > 10


def killed_before_it_trains(place):
    place.apply(place.job("early", backoffLimit=8))
    first = kill_at_first_sight(place, "early", "preflight")
    kill_at_first_sight(place, "early", "train", not_in=(first,))
    return place.ended("early", 500)


def killed_while_it_trains(place):
    """The pod deleted by force, the operator too, then the process killed while it evaluates."""
    place.apply(place.job("middle", backoffLimit=8, training=LONG))
    place.wait("middle", has_checkpoint, 300)
    first = place.get("finetunejob", "middle")["status"]["claim"]["podUID"]
    place.tools.run("kubectl", "delete", "pod", pod_of(place, "middle"), "-n", place.name, "--force", "--grace-period=0")
    place.tools.run("kubectl", "delete", "pod", "-n", "graft-system", "--all", "--force", "--grace-period=0")
    kill_at_first_sight(place, "middle", "train", not_in=(first,), stage="evaluate")
    return place.ended("middle", 500)


def killed_while_it_publishes(place):
    place.apply(place.job("late", backoffLimit=8))
    kill_at_first_sight(place, "late", "publish")
    return place.ended("late", 500)


def test_killed_in_every_stage_a_job_publishes_once(place):
    with ThreadPoolExecutor() as pool:
        stories = [pool.submit(story, place) for story in (killed_before_it_trains, killed_while_it_trains, killed_while_it_publishes)]
        early, middle, late = [story.result() for story in stories]
    for status in (early, middle, late):
        assert status["phase"] == "Succeeded", status.get("failure")
    assert early["attempt"] >= 2  # the first pod may have died before it was granted anything
    assert (middle["attempt"], late["attempt"]) == (3, 2)
    assert middle["resumedFromStep"] >= 10
    published = {key.removesuffix("/manifest.json") for key in place.objects("adapters/") if key.endswith("/artifact/manifest.json")}
    assert published == {status["artifact"]["uri"].removeprefix(f"s3://{place.bucket}/") for status in (early, middle, late)}


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
    assert job["spec"]["ttlSecondsAfterFinished"] >= 604800


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


def passes(place):
    """How many passes the operator's process has made, by its own metrics."""
    raw = "/api/v1/namespaces/graft-system/services/graft-metrics:8080/proxy/metrics"
    text = place.tools.run("kubectl", "get", "--raw", raw)
    done = re.findall(r'^graft_reconcile_total\{controller="finetunejob",result="done"\} (\S+)', text, re.MULTILINE)
    return sum(map(float, done))


def upgrade(place, chosen, references):
    """Upgrade the operator; the writes to this namespace's FineTuneJobs and Jobs that the audit log has of it."""
    from graft_devcluster import install

    seen = len(chosen.audit_log.read_text().splitlines())
    install.install(chosen, references, "logLevel=debug")
    # The new operator has looked at every job once: what it would write, it has written.
    jobs = json.loads(place.tools.run("kubectl", "get", "finetunejobs", "-A", "-o", "json"))["items"]
    place.until(lambda: {"passes": passes(place)}, lambda seen: seen["passes"] >= len(jobs), 60)
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
