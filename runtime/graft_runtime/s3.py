"""A folder of an S3 store: minio's client, bounded retries, and a conditional PUT that really is one."""

import io
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import minio
import minio.credentials
import urllib3
from minio.error import MinioException, S3Error

from graft_runtime.store import CHUNK_BYTES, Entry, Failure, Problem, S3Credentials

REFUSED = frozenset(
    {
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AllAccessDisabled",
        "InvalidToken",
        "ExpiredToken",
        "XAdminUserNotFound",
    }
)
"""The last one is what versitygw says of an access key that it does not know."""
ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "NotFound"})
STATUS_CODES = {403: "AccessDenied", 404: "NoSuchBucket"}
"""What a PUT without an answer in S3's words can only mean."""
CONDITION_FAILED = frozenset({409, 412})
"""412: there is an object. 409: another conditional write is under way; whoever asks again sees its result."""
NO_CONDITIONS = frozenset({"NotImplemented"})
"""Said of the header, with status 501 or 400."""
PART_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class S3Limits:
    """Of one request, in seconds; and how many at a time."""

    retries: int
    pause: float
    """Before the first retry; doubles."""
    longest_pause: float
    obey_retry_after: bool
    """Whether a store that says when to come back is obeyed, however long that is."""
    connect: float
    read: float
    connections: int


class S3Folder:
    """
    Objects below `s3://bucket/folder`. Paths are relative, with forward slashes.

    Its methods block and may be called from many threads. What goes wrong is raised as `failure` makes it.
    """

    def __init__(self, uri: str, credentials: S3Credentials, limits: S3Limits, failure: Failure) -> None:
        parts = urllib.parse.urlsplit(uri)
        self.uri = uri.rstrip("/")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._retries = limits.retries
        self._failure = failure
        self._http = _pool(limits)
        self._client = _client(credentials, self._http)

    def stat(self, path: str) -> Entry | None:
        """Return the object, or None if there is none."""
        with self._asked():
            try:
                found = self._client.stat_object(bucket_name=self._bucket, object_name=self._prefix + path)
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                raise
            return Entry(path, found.size, (found.etag or "").strip('"'))

    def read(self, path: str) -> bytes | None:
        """Return the content of a small object, or None if there is none."""
        with self._asked():
            try:
                response = self._client.get_object(bucket_name=self._bucket, object_name=self._prefix + path)
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                raise
            with response:
                return bytes(response.read())

    def read_part(self, entry: Entry, start: int, length: int) -> Iterator[bytes]:
        """Return a part of an object as it was listed, in pieces. The store refuses one that was replaced since."""
        if not length:
            return
        headers = {"If-Match": f'"{entry.version}"'} if entry.version else {}
        with self._asked():
            response = self._client.get_object(self._bucket, self._prefix + entry.path, start, length, request_headers=headers)
            try:
                yield from response.stream(CHUNK_BYTES)
            finally:
                response.close()
                response.release_conn()

    def list(self, prefix: str = "") -> list[Entry]:
        """Return every object whose path begins with `prefix`, sorted."""
        with self._asked():
            found = self._client.list_objects(self._bucket, prefix=self._prefix + prefix, recursive=True)
            entries = [
                Entry(o.object_name.removeprefix(self._prefix), o.size or 0, (o.etag or "").strip('"')) for o in found if not o.is_dir
            ]
            return sorted(entries, key=lambda entry: entry.path)

    def write(self, path: str, content: bytes, content_type: str = "application/octet-stream") -> None:
        """Write a small object, whole or not at all."""
        with self._asked():
            self._client.put_object(self._bucket, self._prefix + path, io.BytesIO(content), len(content), content_type=content_type)

    def put_if_absent(self, path: str, content: bytes) -> bool | None:
        """
        Return whether there was no such object and there is now; None if the store refuses the condition as such.

        By a presigned PUT: minio's `put_object(metadata={"If-None-Match": ...})` does not send the header and overwrites.
        A retried request whose first answer was lost sees its own object; callers compare what is there with what they wrote.
        """
        with self._asked():
            url = self._client.get_presigned_url("PUT", self._bucket, self._prefix + path, expires=timedelta(minutes=10))
            response = self._http.request("PUT", url, body=content, headers={"If-None-Match": "*", "Content-Length": str(len(content))})
        if response.status in CONDITION_FAILED:
            return False
        if response.status == 200:
            return True
        code = _error_code(response)
        if response.status == 501 or code in NO_CONDITIONS:
            return None
        raise self._explained(code)

    def upload(self, source: Path, path: str) -> None:
        """Copy a file into the store."""
        with self._asked():
            self._client.fput_object(self._bucket, self._prefix + path, str(source), part_size=PART_BYTES)

    def download(self, path: str, target: Path) -> None:
        """Copy an object out of the store; `target` appears whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._asked():
            self._client.fget_object(self._bucket, self._prefix + path, str(target), tmp_file_path=f"{target}.part")

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        with self._asked():
            self._client.remove_object(self._bucket, self._prefix + path)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._explained(error.code or "") from error
        except (urllib3.exceptions.HTTPError, MinioException) as error:
            message = f"{self.uri}: {type(error).__name__} after {self._retries} retries"
            raise self._failure(Problem.UNAVAILABLE, message) from error
        except OSError as error:
            raise self._failure(Problem.UNAVAILABLE, f"{self.uri}: {error.strerror or type(error).__name__}") from error
        except ValueError as error:
            message = f"{self.uri}: {type(error).__name__}; the name or the answer is none of S3's"
            raise self._failure(Problem.UNAVAILABLE, message) from error

    def _explained(self, code: str) -> Exception:
        if code in ABSENT:
            return self._failure(Problem.ABSENT, f"{self.uri}: the store answered {code}")
        if code == "NoSuchBucket":
            return self._failure(Problem.NO_BUCKET, f"bucket {self._bucket!r} of {self.uri} does not exist; create it")
        if code in REFUSED:
            message = f"{self.uri}: the store answered {code}; check the credentials Secret and its rights"
            return self._failure(Problem.REFUSED, message)
        return self._failure(Problem.UNAVAILABLE, f"{self.uri}: the store answered {code}")


def _error_code(response: urllib3.BaseHTTPResponse) -> str:
    """Return S3's word for what went wrong; a proxy in between answers with a status alone."""
    try:
        code = S3Error.fromxml(response).code
    except (SyntaxError, ValueError):  # no XML
        code = None
    return code or STATUS_CODES.get(response.status, f"status {response.status}")


def _pool(limits: S3Limits) -> urllib3.PoolManager:
    # PUT and DELETE of whole objects are idempotent; a multipart completion (POST) is not retried here.
    retry = urllib3.Retry(
        total=limits.retries,
        backoff_factor=limits.pause,
        backoff_max=limits.longest_pause,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=limits.obey_retry_after,
    )
    authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
    timeout = urllib3.Timeout(connect=limits.connect, read=limits.read)
    return urllib3.PoolManager(maxsize=limits.connections, timeout=timeout, retries=retry, cert_reqs="CERT_REQUIRED", ca_certs=authorities)


def _client(credentials: S3Credentials, http: urllib3.PoolManager) -> Any:  # noqa: ANN401 - minio is not typed for us
    endpoint = urllib.parse.urlsplit(credentials.endpoint or "https://s3.amazonaws.com")
    provider = None
    if credentials.access_key is None:
        # Web identity (service account tokens) and instance metadata, in the order that AWS documents.
        provider = minio.credentials.IamAwsProvider()
    return minio.Minio(
        endpoint=endpoint.netloc,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        session_token=credentials.session_token,
        secure=endpoint.scheme == "https",
        region=credentials.region or "us-east-1",
        http_client=http,
        credentials=provider,
    )
