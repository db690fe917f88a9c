"""Is a port free, and if not, who has it: asked before a daemon starts, because its own message is deep in a log."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from graft_devcluster.errors import ClusterError


@dataclass(frozen=True)
class Listener:
    """A daemon about to listen. ``configurable`` is False for DNS, whose port clients do not choose."""

    daemon: str
    purpose: str
    address: str
    number: int
    configurable: bool = True


def require_free(listeners: Iterable[Listener]) -> None:
    """Raise ClusterError naming every occupied port, who holds it, and what to do."""
    taken = [listener for listener in listeners if not is_free(listener.address, listener.number)]
    if taken:
        lines = [f"port {one.number} ({one.purpose}) on {one.address} is in use by {holder(one.number)}" for one in taken]
        remedy = (
            "stop that program, or choose other ports with --port-base" if all(one.configurable for one in taken) else "stop that program"
        )
        raise ClusterError("\n".join([*lines, remedy]))


def is_free(address: str, number: int) -> bool:
    with socket.socket() as probe:
        # As a server does: a connection in TIME_WAIT is no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, number))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            # The address may not exist yet; then nobody can listen on it but on all addresses at once.
            if error.errno == errno.EADDRNOTAVAIL:
                return is_free("0.0.0.0", number)  # noqa: S104 - only probed
            raise ClusterError(f"cannot listen on {address}:{number}: {error.strerror}") from error
    return True


def holder(number: int) -> str:
    """The program that listens on a port, as far as `ss` may tell."""
    try:
        said = subprocess.run(["ss", "-Hltnp", f"sport = :{number}"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        said = ""
    found = re.search(r'\("([^"]+)",pid=(\d+)', said)
    return f"{found[1]} (pid {found[2]})" if found else "another program"
