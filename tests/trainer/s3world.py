"""versitygw, started for the tests, with a door in front that can be shut."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import minio

ACCESS, SECRET = "graft", "graft-secret"


@dataclass
class Gateway:
    """A running server."""

    endpoint: str
    root: Path
    process: "subprocess.Popen[bytes]"

    def client(self) -> minio.Minio:
        return minio.Minio(self.endpoint.removeprefix("http://"), ACCESS, SECRET, secure=False, region="us-east-1")

    def bucket(self, name: str) -> str:
        self.client().make_bucket(name)
        return name

    def credentials(self, folder: Path, **changes: str) -> Path:
        """Write the Secret's files."""
        folder.mkdir(exist_ok=True)
        values = {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
        }
        for key, value in (values | changes).items():
            (folder / key).write_text(value)
        return folder


def binary() -> Path | None:
    return next(iter(sorted(Path("~/.cache/graft/bin").expanduser().glob("versitygw*/versitygw"))), None)


@contextlib.contextmanager
def started(program: Path, root: Path) -> Iterator[Gateway]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (root / "data").mkdir()
    environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
    command = [program, "--port", f"127.0.0.1:{port}", "--quiet", "posix", root / "data"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(port)
        yield Gateway(f"http://127.0.0.1:{port}", root, process)
    finally:
        process.terminate()
        process.wait()


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError("versitygw did not start")
