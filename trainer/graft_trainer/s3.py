"""The S3 side of `store`: minio's client, bounded retries, and a conditional PUT that really is one."""

import io
import os
import secrets
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
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

from graft_api.reports import Reason
from graft_trainer.errors import BadInputError, EnvironmentFailureError
from graft_trainer.store import Entry

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
REFUSED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "InvalidToken", "XAdminUserNotFound"}
)
"""The last one is what versitygw says of an access key that it does not know."""
ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "NotFound"})
STATUS_CODES = {403: "AccessDenied", 404: "NoSuchBucket"}
"""What a PUT without an answer in S3's words can only mean."""
CONDITION_FAILED = frozenset({409, 412})
"""412: there is an object. 409: another conditional write is under way; whoever asks again sees its result."""
NO_CONDITIONS = frozenset({"NotImplemented"})
"""Said of the header, with status 501 or 400."""
RETRIES = 5
TRANSFERS = 3
PART_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class S3Credentials:
    """How to reach and sign in to a store. Without keys the environment's workload identity is used."""

    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    endpoint: str | None = None
    region: str | None = None


def read_credentials(folder: Path, environment: Mapping[str, str] = os.environ) -> S3Credentials:
    """Read the Secret's files; a variable that has none is taken from the environment (local runs)."""
    values = {}
    for name in VARIABLES:
        file = folder / name
        values[name] = file.read_text().strip() if file.is_file() else environment.get(name)
    if (values["AWS_ACCESS_KEY_ID"] is None) != (values["AWS_SECRET_ACCESS_KEY"] is None):
        missing = "AWS_SECRET_ACCESS_KEY" if values["AWS_SECRET_ACCESS_KEY"] is None else "AWS_ACCESS_KEY_ID"
        raise BadInputError(Reason.CREDENTIALS_REFUSED, f"the credentials Secret has no key {missing}; add it")
    return S3Credentials(*(values[name] for name in VARIABLES))


class S3Store:
    """Objects below `s3://bucket/prefix`."""

    def __init__(self, uri: str, credentials: S3Credentials) -> None:
        parts = urllib.parse.urlsplit(uri)
        self.uri = uri.rstrip("/")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._http = _pool()
        self._client = _client(credentials, self._http)

    def check_writable(self) -> bool:
        """See `Store`. The probe has a name of its own, so that two pods do not meet in it."""
        probe = f".probe-{secrets.token_hex(8)}"
        # A listing, not bucket_exists(): the answer to a HEAD has no body, so a refused key looks like a missing bucket.
        self.list(probe)
        self.write(probe, b"graft")
        try:
            return self._put_if_absent(probe, b"again") is False
        finally:
            self.delete(probe)

    def stat(self, path: str) -> Entry | None:
        """See `Store`."""
        with self._as_run_failure():
            try:
                found = self._client.stat_object(bucket_name=self._bucket, object_name=self._prefix + path)
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                raise
            return Entry(path, found.size, (found.etag or "").strip('"'))

    def read(self, path: str) -> bytes | None:
        """See `Store`."""
        with self._as_run_failure():
            try:
                response = self._client.get_object(bucket_name=self._bucket, object_name=self._prefix + path)
            except S3Error as error:
                if error.code in ABSENT:
                    return None
                raise
            with response:
                return bytes(response.read())

    def write(self, path: str, content: bytes) -> None:
        """See `Store`."""
        with self._as_run_failure():
            self._client.put_object(self._bucket, self._prefix + path, io.BytesIO(content), len(content))

    def create(self, path: str, content: bytes) -> bool:
        """See `Store`. Where the store knows no conditions, look and then write: preflight has seen that and does not rely on it."""
        written = self._put_if_absent(path, content)
        if written is not None:
            return written
        if self.stat(path) is not None:
            return False
        self.write(path, content)
        return True

    def _put_if_absent(self, path: str, content: bytes) -> bool | None:
        """
        Return whether there was no such object and there is now; None if the store refuses the condition as such.

        By a presigned PUT: minio's `put_object(metadata={"If-None-Match": ...})` does not send the header and overwrites.
        A retried request whose first answer was lost sees its own object; callers compare what is there with what they wrote.
        """
        with self._as_run_failure():
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
        """See `Store`."""
        self._transfer(lambda: self._client.fput_object(self._bucket, self._prefix + path, str(source), part_size=PART_BYTES))

    def download(self, path: str, target: Path) -> None:
        """See `Store`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._transfer(lambda: self._client.fget_object(self._bucket, self._prefix + path, str(target), tmp_file_path=f"{target}.part"))

    def list(self, prefix: str) -> list[Entry]:
        """See `Store`."""
        with self._as_run_failure():
            found = self._client.list_objects(self._bucket, prefix=self._prefix + prefix, recursive=True)
            entries = [
                Entry(o.object_name.removeprefix(self._prefix), o.size or 0, (o.etag or "").strip('"')) for o in found if not o.is_dir
            ]
            return sorted(entries, key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        """See `Store`."""
        with self._as_run_failure():
            self._client.remove_object(self._bucket, self._prefix + path)

    def local(self, path: str) -> Path | None:
        """See `Store`."""
        del path
        return None

    def _transfer(self, copy: Callable[[], object]) -> None:
        # urllib3 retries requests, not a body that broke off half way nor the completion of a multipart upload.
        for tries_left in reversed(range(TRANSFERS)):
            try:
                with self._as_run_failure():
                    copy()
                return
            except EnvironmentFailureError:
                if not tries_left:
                    raise

    @contextmanager
    def _as_run_failure(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._explained(error.code or "") from error
        except (urllib3.exceptions.HTTPError, MinioException) as error:
            raise EnvironmentFailureError(
                Reason.STORE_UNAVAILABLE, f"{self.uri}: {type(error).__name__} after {RETRIES} retries"
            ) from error
        except OSError as error:
            raise EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{self.uri}: {error.strerror or error}") from error

    def _explained(self, code: str) -> Exception:
        if code == "NoSuchBucket":
            return BadInputError(Reason.BUCKET_NOT_FOUND, f"bucket {self._bucket!r} of {self.uri} does not exist; create it")
        if code in REFUSED:
            return BadInputError(
                Reason.CREDENTIALS_REFUSED, f"{self.uri}: the store answered {code}; check the credentials Secret and its rights"
            )
        return EnvironmentFailureError(Reason.STORE_UNAVAILABLE, f"{self.uri}: the store answered {code}")


def _error_code(response: urllib3.BaseHTTPResponse) -> str:
    """Return S3's word for what went wrong; a proxy in between answers with a status alone."""
    try:
        code = S3Error.fromxml(response).code
    except (SyntaxError, ValueError):  # no XML
        code = None
    return code or STATUS_CODES.get(response.status, f"status {response.status}")


def _pool() -> urllib3.PoolManager:
    # PUT and DELETE of whole objects are idempotent; a multipart completion (POST) is not retried here but in _transfer.
    retry = urllib3.Retry(
        total=RETRIES, backoff_factor=0.5, backoff_max=20, status_forcelist=(429, 500, 502, 503, 504), respect_retry_after_header=True
    )
    authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
    return urllib3.PoolManager(
        maxsize=16, timeout=urllib3.Timeout(connect=10, read=60), retries=retry, cert_reqs="CERT_REQUIRED", ca_certs=authorities
    )


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
