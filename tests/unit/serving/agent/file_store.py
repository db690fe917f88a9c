"""A store that is a folder of this machine. For tests alone: the agent must never read where an Adapter points it to."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from graft_runtime.store import CHUNK_BYTES, Entry


class FileStore:
    """See `graft_serving.agent.store.Store`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._root = Path(unquote(urlsplit(uri).path))

    def list(self) -> list[Entry]:
        found = sorted(file for file in self._root.rglob("*") if file.is_file())
        return [Entry(str(file.relative_to(self._root)), file.stat().st_size) for file in found]

    def read_part(self, entry: Entry, start: int, length: int) -> Iterator[bytes]:
        with (self._root / entry.path).open("rb") as file:
            file.seek(start)
            while length and (chunk := file.read(min(CHUNK_BYTES, length))):
                length -= len(chunk)
                yield chunk
