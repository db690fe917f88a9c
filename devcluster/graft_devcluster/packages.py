"""The Debian packages the node tier runs on.

Pinned by release: within a Debian release a package keeps its upstream version and only gains security fixes, so the
upstream version is what is asked for. An exact revision would vanish from the archive with the next fix.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from graft_devcluster.errors import ClusterError
from graft_devcluster.settings import cache_root


@dataclass(frozen=True)
class Package:
    """A package, the file that shows it is there, and its version per Debian release (empty: any)."""

    name: str
    evidence: str
    versions: Mapping[str, str]


PACKAGES: tuple[Package, ...] = (
    Package("containerd", "containerd", {"12": "1.6.20*"}),
    Package("runc", "runc", {"12": "1.1.5*"}),
    Package("containernetworking-plugins", "/usr/lib/cni/bridge", {"12": "1.1.1*"}),
    Package("iptables", "iptables", {"12": "1.8.9*"}),
    Package("iproute2", "ip", {"12": "6.1.0*"}),
    Package("conntrack", "conntrack", {"12": "1:1.4.7*"}),
    Package("socat", "socat", {"12": "1.7.4.4*"}),
    Package("openssl", "openssl", {"12": "3.0.*"}),
    Package("buildah", "buildah", {"12": "1.28.2*"}),
    Package("debootstrap", "debootstrap", {"12": "1.0.128*"}),
)
DOOR_PACKAGES: tuple[Package, ...] = (
    Package("nginx", "/usr/sbin/nginx", {"12": "1.22.1*"}),
    Package("libnginx-mod-http-set-misc", "/usr/lib/nginx/modules/ngx_http_set_misc_module.so", {"12": "0.33*"}),
)
"""What the serving image has, too: the door's tests run a real one."""
BROWSER_PACKAGES: tuple[Package, ...] = (
    Package("chromium", "chromium", {"12": "*"}),
    Package("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu", {"12": "*"}),
)
"""What reports are looked at with."""
API_TIER_PROGRAMS = ("openssl", "setpriv")


def missing(wanted: tuple[Package, ...] = PACKAGES) -> list[Package]:
    return [package for package in wanted if not _is_there(package.evidence)]


def ensure(wanted: tuple[Package, ...] = PACKAGES) -> None:
    """Install what is missing, on a release this was tried on; elsewhere say what to install."""
    absent = missing(wanted)
    if not absent:
        return
    names = " ".join(package.name for package in absent)
    release = debian_release()
    if release is None or any(release not in package.versions for package in absent):
        raise ClusterError(f"these programs are missing and only Debian 12 is known well enough to install them here: {names}")
    print(f"installing Debian packages: {names}", flush=True)
    with alone():
        run(["apt-get", "update", "-qq"])
        run(install_command(absent, release))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One of our commands at a time uses apt: it does not wait for itself."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command: list[str], folder: Path | None = None) -> None:
    """Run a program of Debian's package management in a folder. Raises ClusterError with what it said."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")


def install_command(packages: list[Package], release: str) -> list[str]:
    pinned = [f"{package.name}={package.versions[release]}" for package in packages]
    return ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *pinned]


def debian_release(os_release: Path = Path("/etc/os-release")) -> str | None:
    """The number of the Debian release, None on anything else."""
    try:
        lines = os_release.read_text().splitlines()
    except FileNotFoundError:
        return None
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("VERSION_ID", "").strip('"') or None if fields.get("ID") == "debian" else None


def _is_there(evidence: str) -> bool:
    return Path(evidence).exists() if evidence.startswith("/") else shutil.which(evidence) is not None


if __name__ == "__main__":
    ensure({"door": DOOR_PACKAGES, "browser": BROWSER_PACKAGES}[sys.argv[1]])
