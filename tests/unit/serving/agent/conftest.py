import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import adapter_world


@pytest.fixture(scope="session")
def signer() -> adapter_world.Signer:
    return adapter_world.Signer()


@pytest.fixture
def package(tmp_path: Path, signer: adapter_world.Signer) -> adapter_world.Package:
    """A good adapter, made from scratch; tests change it before they seal it."""
    return adapter_world.Package(tmp_path / "package", signer)
