"""The S3 side of `store`: minio's client, and its errors as reasons."""

import os
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import minio
import minio.credentials
import urllib3
from minio.error import MinioException, S3Error

from graft_api.fleet import LoadFailure
from graft_serving.agent.failure import VersionRefusedError
from graft_serving.agent.store import CHUNK_BYTES, PARALLEL, Entry

VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
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
ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "NotFound", "NoSuchBucket"})
RETRIES = 2
"""Of one request. More would only hold up the agent's own back-off, which says why it waits."""


@dataclass(frozen=True)
class S3Credentials:
    """How to reach and sign in to a store. Without keys the environment's workload identity is used."""

    access_key: str | None = None
    secret_key: str | None = None
    session_token: str | None = None
    endpoint: str | None = None
    region: str | None = None


def read_credentials(folder: Path, environment: Mapping[str, str] = os.environ) -> S3Credentials:
    """Read the Secret's files; a variable that has none is taken from the environment."""
    values = {}
    for name in VARIABLES:
        file = folder / name
        values[name] = (file.read_text().strip() if file.is_file() else environment.get(name)) or None
    if (values["AWS_ACCESS_KEY_ID"] is None) != (values["AWS_SECRET_ACCESS_KEY"] is None):
        missing = "AWS_SECRET_ACCESS_KEY" if values["AWS_SECRET_ACCESS_KEY"] is None else "AWS_ACCESS_KEY_ID"
        raise VersionRefusedError(LoadFailure.CREDENTIALS_REFUSED, f"the credentials Secret has no key {missing}; add it")
    return S3Credentials(*(values[name] for name in VARIABLES))


class S3Store:
    """Objects below `s3://bucket/folder`."""

    def __init__(self, uri: str, credentials: S3Credentials) -> None:
        parts = urllib.parse.urlsplit(uri)
        self.uri = uri.rstrip("/")
        self._bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._client = _client(credentials)

    def list(self) -> list[Entry]:
        """See `Store`."""
        with self._as_refusal():
            found = self._client.list_objects(self._bucket, prefix=self._prefix, recursive=True)
            return [
                Entry(item.object_name.removeprefix(self._prefix), item.size or 0, (item.etag or "").strip('"'))
                for item in found
                if not item.object_name.endswith("/")
            ]

    def read(self, entry: Entry, start: int, length: int) -> Iterator[bytes]:
        """See `Store`."""
        if not length:
            return
        headers = {"If-Match": f'"{entry.version}"'} if entry.version else {}
        with self._as_refusal():
            response = self._client.get_object(self._bucket, self._prefix + entry.path, start, length, request_headers=headers)
            try:
                yield from response.stream(CHUNK_BYTES)
            finally:
                response.close()
                response.release_conn()

    @contextmanager
    def _as_refusal(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._explained(error.code or "") from error
        except (urllib3.exceptions.HTTPError, MinioException, OSError, ValueError) as error:
            raise VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, f"{self.uri}: {type(error).__name__}") from error

    def _explained(self, code: str) -> VersionRefusedError:
        if code in ABSENT:
            return VersionRefusedError(LoadFailure.NOT_FOUND, f"{self.uri}: the store answered {code}")
        if code in REFUSED:
            message = f"{self.uri}: the store answered {code}; check the credentials Secret and its rights"
            return VersionRefusedError(LoadFailure.CREDENTIALS_REFUSED, message)
        return VersionRefusedError(LoadFailure.STORE_UNAVAILABLE, f"{self.uri}: the store answered {code}")


def _client(credentials: S3Credentials) -> Any:  # noqa: ANN401 - minio is not typed for us
    endpoint = urllib.parse.urlsplit(credentials.endpoint or "https://s3.amazonaws.com")
    # Web identity (service account tokens) and instance metadata, in the order that AWS documents.
    provider = minio.credentials.IamAwsProvider() if credentials.access_key is None else None
    return minio.Minio(
        endpoint=endpoint.netloc,
        access_key=credentials.access_key,
        secret_key=credentials.secret_key,
        session_token=credentials.session_token,
        secure=endpoint.scheme == "https",
        region=credentials.region or "us-east-1",
        http_client=_pool(),
        credentials=provider,
    )


def _pool() -> urllib3.PoolManager:
    retry = urllib3.Retry(total=RETRIES, backoff_factor=0.2, status_forcelist=(429, 500, 502, 503, 504), respect_retry_after_header=False)
    authorities = os.environ.get("SSL_CERT_FILE") or certifi.where()
    timeout = urllib3.Timeout(connect=5, read=30)
    return urllib3.PoolManager(maxsize=PARALLEL, timeout=timeout, retries=retry, cert_reqs="CERT_REQUIRED", ca_certs=authorities)
