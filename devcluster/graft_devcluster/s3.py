"""S3 for the cluster: versitygw on a folder, with credentials of this cluster alone."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from graft_devcluster.process import Daemon, write_atomically
from graft_devcluster.settings import Port, Settings

REGION = "us-east-1"


@dataclass(frozen=True)
class Credentials:
    """An access key and its secret."""

    access_key: str
    secret_key: str

    def environment(self) -> dict[str, str]:
        """Under the names that every S3 client reads."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key, "AWS_DEFAULT_REGION": REGION}


def credentials(settings: Settings) -> Credentials:
    """The cluster's credentials, made at first use and kept, readable by their owner only, until `down`."""
    path = credentials_file(settings)
    if not path.exists():
        write_atomically(path, json.dumps({"access_key": secrets.token_hex(10).upper(), "secret_key": secrets.token_urlsafe(30)}))
    return Credentials(**json.loads(path.read_text()))


def credentials_file(settings: Settings) -> Path:
    return settings.state / "s3-credentials.json"


def endpoint(settings: Settings) -> str:
    """The URL for host and pods alike; pods may use the Service instead."""
    return f"http://{settings.node_address}:{settings.port(Port.S3)}"


def gateway(settings: Settings, binary: Path) -> Daemon:
    data, versions = settings.state / "s3" / "data", settings.state / "s3" / "versions"
    for folder in (data, versions):
        folder.mkdir(parents=True, exist_ok=True)
    keys = credentials(settings)
    argv = (
        str(binary),
        "--port",
        f"{settings.node_address}:{settings.port(Port.S3)}",
        "--region",
        REGION,
        "--quiet",
        "posix",
        "--versioning-dir",
        str(versions),
        str(data),
    )
    # In the environment, because everybody on the host can read a command line.
    return Daemon("versitygw", argv, environment={"ROOT_ACCESS_KEY": keys.access_key, "ROOT_SECRET_KEY": keys.secret_key})
