import pytest

from graft_serving.cluster import Changed, Listed
from graft_serving.gateway.endpoint_slices import PodAddress, SliceBook, pods_of


def endpoint(pod, address, kind="Pod", **conditions):
    return {"addresses": [address], "targetRef": {"kind": kind, "name": pod}, "conditions": conditions}


def slice_of(name, *endpoints):
    return {"metadata": {"name": name}, "endpoints": list(endpoints)}


@pytest.mark.parametrize(
    ("endpoints", "pods"),
    [
        pytest.param([endpoint("a", "10.0.0.1", ready=True)], {"a": PodAddress("10.0.0.1:8000")}, id="a ready pod"),
        pytest.param(
            [endpoint("a", "10.0.0.1", ready=False)], {"a": PodAddress("10.0.0.1:8000")}, id="one that is not ready: its agent decides"
        ),
        pytest.param([endpoint("a", "fd00::1")], {"a": PodAddress("[fd00::1]:8000")}, id="IPv6"),
        pytest.param([endpoint("a", "10.0.0.1", terminating=True)], {"a": PodAddress("10.0.0.1:8000", terminating=True)}, id="terminating"),
        pytest.param([endpoint("a", "10.0.0.1", kind="Node")], {}, id="not a pod"),
        pytest.param([{"addresses": ["10.0.0.1"]}], {}, id="without a target"),
        pytest.param([{"addresses": [], "targetRef": {"kind": "Pod", "name": "a"}}], {}, id="without an address"),
    ],
)
def test_pods_in_a_slice(endpoints, pods):
    assert pods_of([slice_of("s", *endpoints)]) == pods


@pytest.mark.parametrize("field", [{}, {"endpoints": None}])
def test_an_empty_slice(field):
    assert pods_of([{"metadata": {"name": "s"}, **field}]) == {}


@pytest.mark.parametrize("old_first", [True, False])
def test_of_two_pods_of_one_name_the_living_one_counts(old_first):
    slices = [slice_of("s", endpoint("a", "10.0.0.1", terminating=True)), slice_of("t", endpoint("a", "10.0.0.2"))]
    assert pods_of(slices if old_first else slices[::-1]) == {"a": PodAddress("10.0.0.2:8000")}


def test_a_pod_stays_while_any_slice_has_it():
    book = SliceBook()
    one, other = slice_of("s", endpoint("a", "10.0.0.1")), slice_of("t", endpoint("a", "10.0.0.1"))
    assert set(book.take(Listed((one, other)))) == {"a"}
    assert set(book.take(Changed("DELETED", one))) == {"a"}
    assert set(book.take(Changed("MODIFIED", slice_of("t", endpoint("b", "10.0.0.2"))))) == {"b"}
    assert set(book.take(Changed("ADDED", one))) == {"a", "b"}
    assert book.take(Listed(())) == {}
