"""KubeRay's operator as a process on the host: no image to build, and its log is a file like all the others."""

from __future__ import annotations

from pathlib import Path

from graft_devcluster.apiclient import ApiClient
from graft_devcluster.certificates import Identity, Pki, write_kubeconfig
from graft_devcluster.process import Daemon, Processes
from graft_devcluster.settings import Port, Settings
from graft_devcluster.tools import Toolbox

NAME = "kuberay-operator"


def start(settings: Settings, processes: Processes, toolbox: Toolbox, client: ApiClient, server: str) -> bool:
    """CRDs first, server-side, because they are too large for a client-side apply; then the operator."""
    pki = Pki(settings.pki)
    # Administrator: it creates Roles and RoleBindings for the submitter and may grant no more than it has.
    pki.ensure([Identity(NAME, "graft-kuberay", ("system:masters",))])
    kubeconfig = write_kubeconfig(settings.configs / "kuberay.kubeconfig", server, pki, NAME, "graft-kuberay")
    daemon = operator(settings, toolbox, kubeconfig)
    for path in toolbox.crds():
        group, _, plural = path.stem.partition("_")
        place = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{plural}.{group}"
        # The API server takes a second for each; it need not be asked again for what a running operator was started with.
        if not (processes.is_current(daemon) and client.exists(place)):
            client.apply_yaml(place, path.read_bytes())
    return processes.ensure(daemon)


def operator(settings: Settings, toolbox: Toolbox, kubeconfig: Path) -> Daemon:
    """It runs outside the cluster and cannot resolve the head's Service, so it reaches Ray through the API server's proxy."""
    argv = (
        str(toolbox.path(NAME)),
        f"-kubeconfig={kubeconfig}",
        "-use-kubernetes-proxy",
        "-enable-leader-election=false",
        "-reconcile-concurrency=4",
        f"-metrics-addr=127.0.0.1:{settings.port(Port.KUBERAY_METRICS)}",
        f"-health-probe-bind-address=127.0.0.1:{settings.port(Port.KUBERAY_HEALTH)}",
    )
    return Daemon(NAME, argv, (kubeconfig, *toolbox.crds()))
