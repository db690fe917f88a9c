import sys
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

sys.path.insert(0, str(Path(__file__).parent))

from drift_world import REFUNDS, Doors, Vectors, World, task


@pytest.fixture
async def world(tmp_path):
    doors, vectors = Doors(), Vectors()
    async with TestServer(doors.application()) as door, TestServer(vectors.application()) as embeddings:
        made = World(tmp_path, doors, vectors, task(tmp_path, f"127.0.0.1:{door.port}", f"127.0.0.1:{embeddings.port}"))
        made.ask_for(REFUNDS)
        yield made
