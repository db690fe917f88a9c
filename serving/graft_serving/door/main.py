"""Entry point of the door: writes nginx's configuration, has nginx check it, and becomes nginx."""

import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from graft_api.dataplane import AGENT_SOCKET, DOOR_PORT
from graft_serving.door.config import ASKED_SOCKET, DoorSettings, configuration
from graft_serving.file_limit import raise_file_limit

DIRECTORY = "/tmp/door"  # noqa: S108 - the container's only writable place, a volume in memory
MOST_CONNECTIONS = 16_384


def main() -> NoReturn:
    """Become the door. Returns only by an error of the configuration, as the exit status of nginx."""
    directory = Path(DIRECTORY)
    settings = DoorSettings(
        listen=listen_address(os.environ),
        agent_socket=AGENT_SOCKET,
        directory=str(directory),
        key=secrets.token_hex(32),
        connections=raise_file_limit(2 * MOST_CONNECTIONS) // 2,
    )
    become(prepare(settings))


def listen_address(environment: Mapping[str, str]) -> str:
    """Return all addresses of the pod's own family: a node without IPv6 has no `[::]`."""
    return f"[::]:{DOOR_PORT}" if ":" in environment.get("GRAFT_POD_IP", "") else f"0.0.0.0:{DOOR_PORT}"


def prepare(settings: DoorSettings) -> list[str]:
    """Write the configuration, readable to the door alone, and return nginx's command line."""
    directory = Path(settings.directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / ASKED_SOCKET).unlink(missing_ok=True)  # of a process that was killed: nginx would not start
    file = directory / "nginx.conf"
    file.touch(mode=0o600)
    file.write_text(configuration(settings))
    # -e: before it has read its configuration nginx would open a log file on the read-only root.
    return ["nginx", "-e", "stderr", "-p", settings.directory, "-c", str(file), "-g", "daemon off;"]


def become(command: list[str]) -> NoReturn:
    """Have nginx check the configuration, then replace this process by it."""
    checked = subprocess.run([*command, "-t", "-q"], check=False)
    if checked.returncode:
        raise SystemExit(checked.returncode)
    os.execvp(command[0], command)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
