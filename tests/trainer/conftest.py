import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import s3world
import tiny


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Import what containers import, once; they are forked from here."""
    from graft_trainer.main import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    from graft_trainer import probes, publish, s3, stages, training_loop  # noqa: F401


@pytest.fixture(scope="session")
def model(libraries: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made in a child: torch must not have run here when containers are forked."""
    folder = tmp_path_factory.mktemp("model")
    pid = os.fork()
    if pid == 0:
        try:
            tiny.make_model(folder)
        except BaseException:  # noqa: BLE001 - the edge of a forked process
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return folder


@pytest.fixture
def world(tmp_path: Path, model: Path) -> tiny.World:
    return tiny.World(tmp_path, model)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3world.Gateway]:
    """A real S3 server: versitygw on a folder."""
    binary = s3world.binary()
    if binary is None:
        pytest.skip("versitygw is not built (~/.cache/graft/bin/versitygw-*)")
    with s3world.started(binary, tmp_path_factory.mktemp("s3")) as gateway:
        yield gateway
