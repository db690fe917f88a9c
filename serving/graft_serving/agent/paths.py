"""Names that come from outside, before they touch the disk."""

import re

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError

_VERSION_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_relative(path: str) -> None:
    """Refuse a path that is absolute, leaves its folder, is not written the one way, or means something else elsewhere."""
    parts = path.split("/")
    if not path or "\\" in path or _CONTROL.search(path) or any(part in {"", ".", ".."} or len(part.encode()) > 255 for part in parts):
        raise VersionRefusedError(LoadFailure.UNSAFE_PATH, f"{path[:200]!r} is not a path below the adapter's folder")


def check_version_name(name: str) -> None:
    """Refuse a version whose name could not be the name of a folder; the operator gives no such names."""
    if not _VERSION_NAME.fullmatch(name):
        raise VersionRefusedError(LoadFailure.UNSAFE_PATH, f"{name[:200]!r} is no name of a version")
