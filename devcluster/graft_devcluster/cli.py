"""The verbs. Each is a few lines here; what they do is in the modules they name."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from graft_devcluster import cluster, containerd, doctor, images, s3, settings, tools
from graft_devcluster.apiclient import ApiClient
from graft_devcluster.doctor import Verdict
from graft_devcluster.errors import ClusterError
from graft_devcluster.settings import Settings, Tier


def main(arguments: list[str]) -> int:
    """Run one verb. 0: done, 1: not well or refused (the message says what to do), 2: wrong usage."""
    options = parser().parse_args(arguments)
    try:
        chosen = settings.requested(options.name, options.port_base, options.network)
        verb: Callable[[Settings, argparse.Namespace], int] = options.verb
        return verb(chosen, options)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="graft_devcluster", description="A real single-node Kubernetes for development.")
    top.add_argument("--name", help="which cluster (default: GRAFT_CLUSTER_NAME or dev)")
    top.add_argument("--port-base", type=int, help=f"first of about 100 ports (default: {settings.DEFAULT_PORT_BASE})")
    top.add_argument("--network", help=f"a /16 for node, pods and services (default: {settings.DEFAULT_NETWORK})")
    verbs = top.add_subparsers(required=True, metavar="verb")

    up = _verb(verbs, "up", up_verb, "start the cluster, or what is missing of it")
    up.add_argument("--tier", type=Tier, choices=list(Tier), default=Tier.NODE, help="api: no root, no node (default: node)")
    up.add_argument("--with", dest="extras", action="append", choices=sorted(cluster.EXTRAS), default=[], help="start this too")
    up.add_argument("--no-controllers", action="store_true", help="api tier without kube-controller-manager")

    down = _verb(verbs, "down", down_verb, "stop the cluster and remove its state and every trace on the host; images stay")
    down.add_argument("--keep-images", action=argparse.BooleanOptionalAction, default=True, help="keep containerd's images (default)")
    down.add_argument("--purge", action="store_true", help="remove the images too; the same as --no-keep-images")

    _verb(verbs, "status", status_verb, "what runs; exit status 1 if anything is missing")
    load = _verb(verbs, "load-image", load_image_verb, "import images; only what containerd lacks is copied")
    load.add_argument("images", nargs="+", metavar="IMAGE", help="OCI layout folder[=NAME], archive of docker save, or buildah image")
    examine = _verb(verbs, "doctor", doctor_verb, "check this machine and say what to do")
    examine.add_argument("--tier", type=Tier, choices=list(Tier), default=Tier.NODE)
    build = _verb(verbs, "build", build_verb, "build all programs, or those named")
    build.add_argument("tools", nargs="*", metavar="TOOL", help=", ".join(tools.EVERYTHING))
    _verb(verbs, "env", env_verb, 'shell lines for KUBECONFIG, PATH and S3: eval "$(... env)"')
    _verb(verbs, "kubeconfig", kubeconfig_verb, "print the path of the kubeconfig")
    building = _verb(verbs, "images", images_verb, "build the images of graft if what they are made of has changed")
    building.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(images.TARGETS))
    building.add_argument("--load", action="store_true", help="load them into the cluster")
    gpu = _verb(verbs, "fake-gpu", fake_gpu_verb, "make the node claim GPUs it does not have")
    gpu.add_argument("count", nargs="?", type=int, default=4)
    return top


def up_verb(chosen: Settings, options: argparse.Namespace) -> int:
    started = time.monotonic()
    with cluster.locked(chosen):
        if options.tier is Tier.API:
            cluster.up_api(chosen, controllers=not options.no_controllers)
        else:
            cluster.up_node(chosen, [cluster.EXTRAS[name] for name in options.extras])
    print(f"cluster {chosen.name!r} is up ({options.tier} tier, {time.monotonic() - started:.1f} s)")
    print(f"kubeconfig: {chosen.kubeconfig}")
    return 0


def down_verb(chosen: Settings, options: argparse.Namespace) -> int:
    with cluster.locked(chosen):
        cluster.down(chosen, keep_images=options.keep_images and not options.purge)
    print(f"cluster {chosen.name!r} is down")
    return 0


def status_verb(chosen: Settings, options: argparse.Namespace) -> int:
    tier = settings.recorded_tier(chosen)
    if tier is None:
        print(f"cluster {chosen.name!r} is down")
        return 1
    processes = cluster.processes_of(chosen)
    running = {one.name: one for one in processes.all()}
    for name in processes.names():
        state = (
            f"pid {running[name].pid}, up {_age(running[name].started)}" if name in running else f"NOT RUNNING, log: {processes.log(name)}"
        )
        print(f"{name:<24} {state}")
    answers = chosen.kubeconfig.exists() and ApiClient(chosen.kubeconfig).ready()
    print(f"{'API':<24} {'ready' if answers else 'NOT READY'}, https://127.0.0.1:{chosen.port(settings.Port.API)}, tier {tier}")
    if tier is Tier.NODE:
        print(f"{'S3':<24} {s3.endpoint(chosen)}")
    return 0 if answers and set(running) == set(processes.names()) else 1


def load_image_verb(chosen: Settings, options: argparse.Namespace) -> int:
    for image in options.images:
        started = time.monotonic()
        names = load_image(chosen, image)
        print(f"loaded {', '.join(names)} in {time.monotonic() - started:.1f} s")
    return 0


def load_image(chosen: Settings, image: str) -> list[str]:
    """Import one image; returns the names it now has."""
    path, _, name = image.partition("=")
    if Path(path).is_dir():
        reference = name or containerd.read_layout(Path(path)).name
        if not reference:
            raise ClusterError(f"{path} does not say what its image is called; write {path}=NAME")
        containerd.import_oci_layout(Path(path), reference, settings=chosen)
        return [containerd.normalized(reference)]
    if Path(path).is_file():
        containerd.ensure_running(chosen, cluster.processes_of(chosen))
        return containerd.import_archive(Path(path), chosen)
    with tempfile.TemporaryDirectory(prefix="graft-image-") as folder:
        layout = Path(folder) / "layout"
        push = [
            "buildah",
            "--storage-driver=overlay",
            "push",
            "--compression-format",
            "zstd",
            "--compression-level",
            "1",
            image,
            f"oci:{layout}",
        ]
        done = subprocess.run(push, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"{image} is no folder, no file, and buildah says: {done.stderr.strip()}")
        containerd.import_oci_layout(layout, image, settings=chosen)
    return [containerd.normalized(image)]


def doctor_verb(chosen: Settings, options: argparse.Namespace) -> int:
    findings = doctor.examine(chosen, options.tier)
    for finding in findings:
        print(f"{finding.verdict:<5} {finding.subject:<9} {finding.detail}")
    return 1 if any(finding.verdict is Verdict.FAIL for finding in findings) else 0


def build_verb(chosen: Settings, options: argparse.Namespace) -> int:
    tools.Toolbox(chosen.cache).ensure(options.tools or tools.EVERYTHING)
    return 0


def env_verb(chosen: Settings, options: argparse.Namespace) -> int:
    tier = settings.recorded_tier(chosen)
    if tier is None:
        raise ClusterError(f"cluster {chosen.name!r} is down; run `up` first")
    folders, assets = program_folders(chosen)
    exports = {
        "KUBECONFIG": str(chosen.kubeconfig),
        "KUBEBUILDER_ASSETS": assets,
        "GRAFT_AUDIT_LOG": str(chosen.audit_log),
    }
    if tier is Tier.NODE:
        exports |= {"GRAFT_S3_ENDPOINT": s3.endpoint(chosen), "GRAFT_S3_CREDENTIALS": str(s3.credentials_file(chosen))}
        exports |= {"AWS_ENDPOINT_URL": s3.endpoint(chosen), **s3.credentials(chosen).environment()}
        exports |= {"CONTAINERD_ADDRESS": str(containerd.socket(chosen)), "CONTAINERD_NAMESPACE": "k8s.io"}
    if any(name in os.environ for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")):
        exports["NO_PROXY"] = ",".join(filter(None, [os.environ.get("NO_PROXY"), f"127.0.0.1,{chosen.network},.svc"]))
    print(f'export PATH={shlex.quote(":".join(folders))}:"$PATH"')
    for name, value in exports.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def program_folders(chosen: Settings) -> tuple[list[str], str]:
    """Folders for PATH, and the one with the API server; without Go nothing was built, and KUBEBUILDER_ASSETS has them all."""
    toolbox, assets = tools.Toolbox(chosen.cache), os.environ.get("KUBEBUILDER_ASSETS")
    if assets and not shutil.which("go"):
        return [assets], assets
    folders = dict.fromkeys(str(toolbox.path(name).parent) for name in tools.ON_PATH)
    return list(folders), str(toolbox.path("kube-apiserver").parent)


def kubeconfig_verb(chosen: Settings, options: argparse.Namespace) -> int:
    print(chosen.kubeconfig)
    return 0 if chosen.kubeconfig.exists() else 1


def images_verb(chosen: Settings, options: argparse.Namespace) -> int:
    for target, reference in images.ensure_images(options.targets or images.TARGETS, load=options.load, settings=chosen).items():
        print(f"{target} {reference}")
    return 0


def fake_gpu_verb(chosen: Settings, options: argparse.Namespace) -> int:
    cluster.fake_gpus(chosen, options.count)
    print(f"node {chosen.node_name} now claims {options.count} nvidia.com/gpu")
    return 0


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[[Settings, argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(verb=function)
    return verb


def _age(started: float) -> str:
    seconds = int(time.time() - started)
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m" if seconds >= 3600 else f"{seconds // 60}m{seconds % 60:02}s"
