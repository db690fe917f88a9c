from __future__ import annotations

from typing import Any

import pytest

from graft_operator.reports.ca import Trust, ca_config_map, trainer_service_account
from graft_operator.reports.service import differs, endpoint_slice, epoch_of

SERVICE = {"metadata": {"name": "graft-reports", "uid": "service-1"}}


def made(ip: str = "10.0.0.1", epoch: int = 3) -> Any:
    return endpoint_slice("graft-system", SERVICE, "graft-operator-a", ip, 8443, epoch)


def test_the_slice_belongs_to_the_service() -> None:
    slice_ = made()
    assert slice_["metadata"]["labels"]["kubernetes.io/service-name"] == "graft-reports"
    assert slice_["metadata"]["ownerReferences"][0]["uid"] == "service-1"
    assert slice_["endpoints"][0]["addresses"] == ["10.0.0.1"]
    assert slice_["ports"] == [{"name": "https", "port": 8443, "protocol": "TCP"}]


@pytest.mark.parametrize(("ip", "kind"), [("10.0.0.1", "IPv4"), ("fd00::1", "IPv6")])
def test_address_families(ip: str, kind: str) -> None:
    assert made(ip)["addressType"] == kind


@pytest.mark.parametrize(
    ("existing", "epoch"),
    [
        pytest.param(None, 0, id="no slice"),
        pytest.param({"metadata": {}}, 0, id="no annotation"),
        pytest.param({"metadata": {"annotations": {"graft.dev/leader-epoch": "x"}}}, 0, id="not a number"),
        pytest.param(made(epoch=7), 7, id="a number"),
    ],
)
def test_who_wrote_it(existing: Any, epoch: int) -> None:
    assert epoch_of(existing) == epoch


def test_what_differs() -> None:
    assert not differs(made(), made())
    assert differs(made("10.0.0.2"), made())
    assert differs(made(epoch=2), made(epoch=3))
    touched = made()
    touched["metadata"]["labels"] = {}
    assert differs(touched, made())


def test_what_a_workload_namespace_gets() -> None:
    assert ca_config_map("team", "pem")["metadata"]["labels"] == {"graft.dev/record": "ca"}
    assert trainer_service_account("team")["automountServiceAccountToken"] is False


async def test_it_is_applied_once_and_again_when_the_bundle_changes_or_time_passes(api: Any, kube: Any, clock: Any) -> None:
    for path in ("configmaps/graft-ca", "serviceaccounts/graft-trainer"):
        api.objects[f"/api/v1/namespaces/team/{path}"] = {}
    bundle = "one"
    trust = Trust(kube, clock, lambda: bundle)
    await trust.ensure("team", "one")
    await trust.ensure("team", "one")
    assert len(api.asked) == 2
    bundle = "two"
    await trust.ensure("team", "one")
    assert len(api.asked) == 4
    await clock.advance(601)
    await trust.ensure("team", "one")
    assert len(api.asked) == 6
    await trust.ensure("team", "two")  # the namespace was deleted and restored
    assert len(api.asked) == 8
