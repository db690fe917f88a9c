"""What a collector has committed, read without it."""

from __future__ import annotations

import pytest
import yaml
from collector_world import NEW, Does, FakeGateway

from graft_api.collect import CollectorSettings
from graft_evaluation.paired.wire import to_bytes
from graft_evaluation.pairs.question import question
from graft_evaluation.pairs.recorded import files, lines
from graft_evaluation.pairs.recording import recording


@pytest.fixture
def gateway():
    return FakeGateway()


async def test_a_store_reads_to_the_same_state_as_the_collector_has(gateway, shadow, session, start, tmp_path):
    world = await start(controlShare="0.5")
    shadow.does = lambda version, prompt: Does("yes", status=500 if version == NEW and prompt.endswith("7") else 200)
    for part in range(2):
        await gateway.deliver(session, world.url, [gateway.exchange(f"q{part}{i}", conversation=f"c{i}") for i in range(30)])
        await world.idle()
        await world.commit()
    settings = tmp_path / "collector.json"
    settings.write_text(yaml.safe_dump(CollectorSettings(compare=world.compare).to_json()))
    store = tmp_path / "store"
    read = recording(question(store, settings), lines(files(store)))
    sums = world.journal.chain.total.sums
    assert read.lines == 60
    assert set(read.sums) == set(sums)
    for name, found in read.sums.items():
        assert to_bytes(found) == to_bytes(sums[name].summary), name
