"""The Job's process: it reports until it is told to end, whatever came of it."""

import asyncio
import json
import os
import signal
import sys

import pytest
from aiohttp.test_utils import TestServer
from drift_world import Operator

from graft_api.drift import DriftReport
from graft_api.schema import parse
from graft_runtime.environment import MissingSetting
from graft_serving.drift.settings import settings_from

PATH = "/v1/namespaces/team/modelendpoints/prod/drift"


@pytest.fixture
async def operator():
    made = Operator()
    async with TestServer(made.application()) as server:
        made.url = f"http://127.0.0.1:{server.port}"
        yield made


def environment(world, url="http://operator"):
    (world.folder / "reports").mkdir(exist_ok=True)
    (world.folder / "reports" / "token").write_text("report-token")
    return {
        "GRAFT_NAMESPACE": "team",
        "GRAFT_ENDPOINT": "prod",
        "GRAFT_POD_NAME": "drift-7",
        "GRAFT_REPORTS_URL": url,
        "GRAFT_REPORTS_DIRECTORY": str(world.folder / "reports"),
        "GRAFT_PRINCIPLES_DIRECTORY": str(world.folder),
        "GRAFT_DRIFT_TASK": json.dumps(world.task.to_json()),
    }


async def until(holds, seconds=20):
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - on what another process sends
            await asyncio.sleep(0.02)


async def test_it_reports_until_sigterm_and_ends_with_0(world, operator):
    command = (sys.executable, "-m", "graft_serving.main", "drift")
    environ = {**os.environ, **environment(world, operator.url)}
    process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=asyncio.subprocess.PIPE)
    try:
        await until(lambda: operator.over)
        assert process.returncode is None
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 10)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, said
    assert {(path, token) for path, token, _ in operator.reports} == {(PATH, "Bearer report-token")}
    report = parse(DriftReport, operator.over[-1])
    assert (report.domain, report.gate, report.adapter_uid, report.attempt) == ("dsl", 7, "uid", 1)
    assert report.problem is None
    assert [reading.mean for reading in report.measured.readings] == [0, 0]
    assert [report["sequence"] for *_, report in operator.reports] == sorted(report["sequence"] for *_, report in operator.reports)
    assert b"May I have my money back?" not in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"GRAFT_DRIFT_TASK": ""}, "GRAFT_DRIFT_TASK is not set"),
        ({"GRAFT_DRIFT_TASK": "{"}, "GRAFT_DRIFT_TASK is no JSON"),
        ({"GRAFT_DRIFT_TASK": "{}"}, "GRAFT_DRIFT_TASK: .*gate: Field required"),
        ({"GRAFT_REPORTS_URL": ""}, "GRAFT_REPORTS_URL is not set"),
    ],
)
async def test_a_setting_that_is_wrong_is_named(world, change, told):
    with pytest.raises(MissingSetting, match=told):
        settings_from(environment(world) | change)


async def test_a_newer_operator_may_say_more(world):
    told = json.dumps(world.task.to_json() | {"newer": 1})
    assert settings_from(environment(world) | {"GRAFT_DRIFT_TASK": told}).task == world.task
