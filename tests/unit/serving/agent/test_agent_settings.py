"""What the agent takes from its environment, as the pod's template writes it."""

from pathlib import Path

import pytest

from graft_api.modelendpoint import ModelEndpointSpec
from graft_api.serverpod import Sidecars, agent
from graft_serving.agent.settings import server_from
from graft_serving.agent.wanted import Server

BASE = "sha256:" + "b" * 64
SPEC = {"baseModel": {"uri": "s3://b/base", "digest": BASE}, "gateway": {"anonymous": True}, "domains": [{"name": "dsl"}]}
SERVED = {
    "said in the spec": ({"maxLoras": 7, "maxLoraRank": 128}, Server(7, 128, BASE)),
    "left to the defaults": ({}, Server(3, 64, BASE)),
}


@pytest.mark.parametrize(("server", "expected"), SERVED.values(), ids=SERVED)
def test_the_agent_knows_with_what_the_vllm_beside_it_was_started(server: dict[str, int], expected: Server) -> None:
    spec = ModelEndpointSpec.model_validate(SPEC | {"server": server})
    built = agent(Sidecars("e", "image", "Always", ""), spec)
    assert server_from({variable["name"]: variable.get("value", "") for variable in built["env"]}) == expected


def test_in_a_pod_that_an_older_graft_made_the_routes_word_counts(tmp_path: Path) -> None:
    assert server_from({"GRAFT_MODEL_DIGEST_FILE": str(tmp_path / "none"), "GRAFT_BASE_DIGEST": BASE}) == Server(None, None, BASE)
