import pytest

from graft_api.fleet import Trip
from graft_serving.gateway.reporter import Reporter, Traffic

ARMS = [{"domain": "dsl", "revision": 1, "salt": "s", "arms": [{"version": "v1"}]}]


class Data:
    def __init__(self):
        self.in_flight = {}
        self.reach = {}
        self.trips = []


@pytest.fixture
def data():
    return Data()


@pytest.fixture
def changes():
    return []


@pytest.fixture
def reporter(data, changes):
    traffic = Traffic(lambda: data.in_flight, lambda: data.reach, lambda: data.trips)
    return Reporter("boot", traffic, lambda: changes.append("changed"))


def test_a_picture_says_what_is_routed_by_under_way_and_reachable(reporter, data, routes):
    data.in_flight, data.reach = {"v1": 2, "base": 0}, {"base": 3, "v1": 1}
    reporter.applied(routes(4, epoch=2))
    assert reporter.picture(7).to_json() == {
        "boot": "boot",
        "sequence": 7,
        "epoch": 2,
        "revision": 4,
        "inFlight": {"v1": 2},
        "pods": {"base": 3, "v1": 1},
        "draining": False,
        "trips": [],
    }


def test_before_any_routes_nothing_is_acknowledged(reporter):
    assert (reporter.picture(1).epoch, reporter.picture(1).revision) == (0, 0)


def test_applied_routes_are_reported_at_once(reporter, routes, changes):
    reporter.applied(routes(1))
    assert changes == ["changed"]


async def test_the_end_of_the_last_request_of_a_version_that_is_not_routed_any_more_is_reported(
    reporter, data, routes, changes, background, until
):
    background(reporter.run())
    data.in_flight = {"v0": 1, "v1": 1, "base": 1}
    reporter.applied(routes(2, routes=ARMS))
    await until(lambda: changes == ["changed"])
    data.in_flight = {"v0": 1}  # a routed version and the base: nobody waits for these
    with pytest.raises(TimeoutError):
        await until(lambda: len(changes) > 1, 0.15)
    data.in_flight = {"v0": 0}
    await until(lambda: len(changes) == 2)


def test_a_drain_is_reported(reporter, changes):
    reporter.drain()
    assert changes == ["changed"]
    assert reporter.picture(1).draining


def out(domain):
    return Trip(domain=domain, version="v1", metric="errors", value=0.5, bound=0.1, requests=20, at="2026-01-01T00:00:00Z")


def test_what_is_taken_out_is_in_every_report(reporter, data, routes):
    data.trips = [out("dsl")]
    assert reporter.picture(1).trips == reporter.picture(2).trips == [out("dsl")]
    data.trips = []
    assert reporter.picture(3).trips == []


def test_a_report_never_holds_more_than_the_contract_allows(reporter, data):
    data.in_flight = {f"v{number}": number for number in range(300)}
    data.trips = [out(f"d{number}") for number in range(40)]
    report = reporter.picture(1)
    assert [trip.domain for trip in report.trips] == [f"d{number}" for number in range(31)]
    assert len(report.in_flight) == 128
    assert report.in_flight["v299"] == 299
