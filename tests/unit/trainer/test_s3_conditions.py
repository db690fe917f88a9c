"""Stores that answer `If-None-Match` in other ways than S3 does; a real HTTP server plays them."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from graft_trainer.errors import BadInputError
from graft_trainer.store import Store, open_store


class Bucket(ThreadingHTTPServer):
    """Keeps objects; answers a conditional PUT with `refusal` (status, S3's code)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.refusal: tuple[int, str] = (501, "NotImplemented")


class Handler(BaseHTTPRequestHandler):
    server: Bucket

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["If-None-Match"]:
            status, code = self.server.refusal
            self.answer(status, f"<Error><Code>{code}</Code></Error>".encode() if code else b"")
            return
        self.server.objects[self.key()] = self.plain(body)
        self.answer(200, b"")

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            self.answer(200, b"<ListBucketResult><Name>bucket</Name><Prefix/><IsTruncated>false</IsTruncated></ListBucketResult>")
            return
        found = self.server.objects.get(self.key())
        self.answer(404 if found is None else 200, b"<Error><Code>NoSuchKey</Code></Error>" if found is None else found)

    def do_HEAD(self) -> None:
        found = self.server.objects.get(self.key())
        self.answer(404 if found is None else 200, found or b"")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key(), None)
        self.answer(204, b"")

    def key(self) -> str:
        return self.path.partition("?")[0]

    def plain(self, body: bytes) -> bytes:
        if not self.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            return body
        return body.split(b"\r\n", 2)[1]

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Length", str(len(content))),
            ("Content-Type", "application/xml"),
            ("ETag", '"1"'),
            ("Last-Modified", "Sat, 21 Nov 2026 04:00:00 GMT"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def bucket(in_thread: Callable[[Bucket], Bucket]) -> Bucket:
    return in_thread(Bucket())


@pytest.fixture
def store(bucket: Bucket, tmp_path: Path) -> Store:
    values = {
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{bucket.server_port}",
    }
    for name, value in values.items():
        (tmp_path / name).write_text(value)
    return open_store("s3://bucket/pre", tmp_path)


@pytest.mark.parametrize("refusal", [(501, "NotImplemented"), (400, "NotImplemented"), (501, "")])
def test_a_store_that_knows_no_conditions_is_no_failure(bucket: Bucket, store: Store, refusal: tuple[int, str]) -> None:
    bucket.refusal = refusal

    assert store.check_writable() is False
    assert (store.create("x", b"1"), store.create("x", b"2"), store.read("x")) == (True, False, b"1")


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ((403, "AccessDenied"), "CredentialsRefused"),
        ((403, ""), "CredentialsRefused"),
        ((404, "NoSuchBucket"), "BucketNotFound"),
        ((404, ""), "BucketNotFound"),
    ],
)
def test_who_must_act_on_a_refused_create_is_named(bucket: Bucket, store: Store, refusal: tuple[int, str], reason: str) -> None:
    bucket.refusal = refusal

    with pytest.raises(BadInputError) as raised:
        store.create("x", b"1")
    assert raised.value.reason == reason
