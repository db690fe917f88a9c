"""GPU scheduling without a GPU: the node claims some, and the pods ask for them."""

from graft_devcluster import cluster


def test_gpus_are_asked_for_and_waited_for(place, chosen):
    cluster.fake_gpus(chosen, 4)
    place.apply(place.job("greedy", workers={"count": 1, "gpusPerWorker": 8}))
    status = place.wait("greedy", lambda s: s.get("phase") == "Queued" and "nvidia.com/gpu" in str(s["conditions"]), 60)["status"]
    assert "Insufficient nvidia.com/gpu" in next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    pod = place.items("pods", "-l", "graft.dev/finetunejob=greedy")[0]
    limits = {c["name"]: c["resources"].get("limits", {}) for c in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]}
    assert limits["trainer"]["nvidia.com/gpu"] == "8"
    place.tools.run("kubectl", "delete", "finetunejob", "greedy", "-n", place.name)

    place.apply(place.job("modest", workers={"count": 1, "gpusPerWorker": 2}))
    place.wait("modest", lambda s: s.get("phase") == "Running", 120)
    place.tools.run("kubectl", "delete", "finetunejob", "modest", "-n", place.name)
