"""Who asks, and how much they may ask."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from graft_api.routes import KeyLimits
from graft_runtime.environment import MissingSetting
from graft_serving.gateway.errors import Cause, Refusal
from graft_serving.gateway.keys import ApiKeys
from graft_serving.gateway.limits import Meters, leave
from graft_serving.gateway.settings import settings_from


def digest(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def mount(folder: Path, generation: str, keys: dict[str, str]) -> None:
    """As the kubelet does: files are links through `..data`, which is swapped."""
    target = folder / generation
    target.mkdir()
    for owner, content in keys.items():
        (target / owner).write_text(content)
        if not (folder / owner).is_symlink():
            (folder / owner).symlink_to(f"..data/{owner}")
    swap = folder / "..data_tmp"
    swap.symlink_to(generation)
    swap.rename(folder / "..data")


def test_a_key_has_an_owner(tmp_path: Path) -> None:
    mount(tmp_path, "..1", {"team-a": digest("a") + "\n", "team-b": digest("b"), "broken": "plain"})
    keys = ApiKeys(tmp_path)
    keys.look()
    assert keys.owner({"Authorization": "Bearer a"}, anonymous=False) == "team-a"
    assert keys.owner({"Authorization": "bearer  b "}, anonymous=False) == "team-b"
    assert keys.owner({"x-api-key": "b"}, anonymous=False) == "team-b"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer x"},
        {"Authorization": "Basic YTph"},
        {"Authorization": "Bearer "},
        {"x-api-key": "plain"},
        {"x-api-key": ""},
    ],
)
def test_without_a_known_key(tmp_path: Path, headers: dict[str, str]) -> None:
    mount(tmp_path, "..1", {"team-a": digest("a"), "broken": "plain"})
    keys = ApiKeys(tmp_path)
    keys.look()
    with pytest.raises(Refusal) as refused:
        keys.owner(headers, anonymous=False)
    assert refused.value.cause is Cause.UNAUTHENTICATED
    assert keys.owner(headers, anonymous=True) == ""


def test_keys_change_when_the_kubelet_swaps_the_folder(tmp_path: Path) -> None:
    mount(tmp_path, "..1", {"team-a": digest("old")})
    keys = ApiKeys(tmp_path)
    keys.look()
    mount(tmp_path, "..2", {"team-a": digest("new")})
    keys.look()
    assert keys.owner({"x-api-key": "new"}, anonymous=False) == "team-a"
    with pytest.raises(Refusal):
        keys.owner({"x-api-key": "old"}, anonymous=False)


def test_a_folder_that_is_away_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "team-a").write_text(digest("a"))
    keys = ApiKeys(folder)
    keys.look()
    folder.rename(tmp_path / "away")
    keys.look()
    assert keys.owner({"x-api-key": "a"}, anonymous=False) == "team-a"


def admitted(meters: Meters, limits: KeyLimits, times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            leave(meters.admit("a", limits))
        except Refusal:
            continue
        count += 1
    return count


def test_requests_per_minute() -> None:
    now = [0.0]
    meters = Meters("this API key", lambda: now[0])
    limits = KeyLimits(requests_per_minute=60)
    assert admitted(meters, limits, 100) == 10  # ten seconds' worth at once
    now[0] += 3
    assert admitted(meters, limits, 100) == 3
    now[0] += 600
    assert admitted(meters, limits, 100) == 10


def test_the_refusal_says_when_to_come_back() -> None:
    meters = Meters("this API key", lambda: 0.0)
    limits = KeyLimits(requests_per_minute=2)
    leave(meters.admit("a", limits))
    with pytest.raises(Refusal) as refused:
        meters.admit("a", limits)
    assert (refused.value.status, refused.value.cause, refused.value.retry_after) == (429, Cause.RATE, 30)


def test_requests_at_a_time() -> None:
    meters = Meters("this API key", lambda: 0.0)
    limits = KeyLimits(concurrent=2)
    first, _ = meters.admit("a", limits), meters.admit("a", limits)
    with pytest.raises(Refusal) as refused:
        meters.admit("a", limits)
    assert refused.value.cause is Cause.CONCURRENCY
    assert meters.admit("b", limits) is not None
    leave(first)
    meters.admit("a", limits)


def test_quiet_clients_are_forgotten() -> None:
    now = [0.0]
    meters = Meters("this API key", lambda: now[0])
    limits = KeyLimits(concurrent=1)
    for number in range(1000):
        leave(meters.admit(str(number), limits))
    now[0] += 10_000
    meters.admit("busy", limits)
    assert len(meters._meters) == 1


def test_settings() -> None:
    assert settings_from({}).port == 8080
    assert settings_from({}).memory_bytes == 512 * 1024 * 1024
    assert settings_from({"GRAFT_GATEWAY_MEMORY_BYTES": "1000"}).memory_bytes == 1000
    with pytest.raises(MissingSetting, match="GRAFT_GATEWAY_PORT"):
        settings_from({"GRAFT_GATEWAY_PORT": "http"})
