"""Where an Adapter may point the agent to."""

from pathlib import Path

import pytest

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.store import open_store

ELSEWHERE = {
    "the agent's own token": "file:///var/run/secrets/kubernetes.io/serviceaccount",
    "the same, in capitals": "FILE:///var/run/secrets",
    "another machine": "http://169.254.169.254/latest",
    "no scheme": "/etc",
    "nothing": "",
}


@pytest.mark.parametrize("uri", ELSEWHERE.values(), ids=ELSEWHERE)
def test_only_an_s3_store_is_opened(tmp_path: Path, uri: str) -> None:
    with pytest.raises(VersionRefusedError, match="only s3://") as refused:
        open_store(uri, tmp_path)
    assert refused.value.reason is LoadFailure.INVALID_ARTIFACT
