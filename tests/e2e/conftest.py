"""The real node, the real images, the chart as a user installs it. Every test has a namespace and a bucket of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from minio import Minio

from graft_devcluster import cluster, images, install, s3, settings

sys.path.insert(0, str(Path(__file__).parent))  # its modules beside it: pytest's importlib mode adds no folder
from place import EXAMPLE, Place


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def chosen():
    found = settings.requested(None, None, None)
    with cluster.locked(found):
        cluster.up_node(found, [])
    return found


@pytest.fixture(scope="session")
def references(chosen):
    return images.ensure_images(["operator", "trainer", "serving", "vllm-cpu"], load=True)


@pytest.fixture(scope="session")
def tools(chosen):
    return install.Tools(chosen)


@pytest.fixture(scope="session")
def graft(chosen, references, tools):
    install.install(chosen, references)
    return tools


@pytest.fixture(scope="session")
def world(chosen):
    out = chosen.cache / "e2e-world"
    subprocess.run([sys.executable, "-m", "world", "--out", str(out)], check=True, cwd=EXAMPLE)
    return out


@pytest.fixture(scope="session")
def store(chosen):
    keys = s3.credentials(chosen)
    return Minio(s3.endpoint(chosen).removeprefix("http://"), keys.access_key, keys.secret_key, secure=False)


@pytest.fixture
def place(graft, store, chosen, world):
    made = Place(graft, store, chosen, world)
    made.create_namespace()
    made.fill_bucket()
    yield made
    made.tools.run("kubectl", "delete", "namespace", made.name, "--wait=false")
