"""What stores answer, and what is made of it; a real HTTP server plays them."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from graft_runtime.s3 import S3Folder, S3Limits
from graft_runtime.store import Entry, Problem, S3Credentials, read_credentials

LIMITS = S3Limits(retries=1, pause=0, longest_pause=0, obey_retry_after=False, connect=1, read=1, connections=1)


class Failed(Exception):  # noqa: N818
    """What this part makes of a problem."""

    def __init__(self, problem, message):
        super().__init__(problem, message)
        self.problem, self.message = problem, message


class Store(ThreadingHTTPServer):
    """Answers everything with `answer` (status, body), and keeps what it was asked."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = (200, b"")
        self.asked = []

    def refuse(self, status, code):
        self.answer = (status, f"<Error><Code>{code}</Code></Error>".encode())


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def store(in_thread):
    return in_thread(Store())


@pytest.fixture
def folder(store):
    return opened(f"http://127.0.0.1:{store.server_port}")


def opened(endpoint):
    return S3Folder("s3://bucket/pre/fix/", S3Credentials("me", "secret", endpoint=endpoint), LIMITS, Failed)


@pytest.mark.parametrize(
    ("status", "code", "problem", "message"),
    [
        (404, "NoSuchBucket", Problem.NO_BUCKET, "bucket 'bucket' of s3://bucket/pre/fix does not exist; create it"),
        (403, "AccessDenied", Problem.REFUSED, "the store answered AccessDenied; check the credentials Secret"),
        (400, "ExpiredToken", Problem.REFUSED, "the store answered ExpiredToken; check the credentials Secret"),
        (404, "NoSuchKey", Problem.ABSENT, "the store answered NoSuchKey"),
        (400, "SlowDown", Problem.UNAVAILABLE, "the store answered SlowDown"),
        (503, "SlowDown", Problem.UNAVAILABLE, "after 1 retries"),
    ],
)
def test_who_must_act_is_told_by_the_stores_answer(store, folder, status, code, problem, message):
    store.refuse(status, code)
    with pytest.raises(Failed) as raised:
        folder.list()
    assert raised.value.problem is problem
    assert message in raised.value.message


def test_nobody_at_all_is_a_store_that_is_away():
    with pytest.raises(Failed) as raised:
        opened("http://127.0.0.1:9").list()
    assert raised.value.problem is Problem.UNAVAILABLE


def test_a_missing_object_is_an_answer_when_it_is_looked_for_and_a_problem_when_it_was_listed(store, folder):
    store.refuse(404, "NoSuchKey")
    assert folder.read("x") is None
    with pytest.raises(Failed) as raised:
        list(folder.read_part(Entry("x", 5, "1"), 0, 5))
    assert raised.value.problem is Problem.ABSENT


def test_a_part_is_asked_of_the_object_that_was_listed_and_of_no_other(store, folder):
    store.answer = (206, b"lo")
    assert b"".join(folder.read_part(Entry("a b", 5, "etag"), 3, 2)) == b"lo"
    [(path, headers)] = store.asked
    assert path == "/bucket/pre/fix/a%20b"
    assert (headers["Range"], headers["If-Match"]) == ("bytes=3-4", '"etag"')
    store.refuse(412, "PreconditionFailed")
    with pytest.raises(Failed) as raised:
        list(folder.read_part(Entry("a b", 5, "etag"), 3, 2))
    assert raised.value.problem is Problem.UNAVAILABLE, "it is listed afresh, and fetched then"


def test_a_listing_is_relative_sorted_and_without_folders(store, folder):
    content = "".join(
        f"<Contents><Key>pre/fix/{key}</Key><LastModified>2026-11-21T04:00:00Z</LastModified><ETag>&quot;{size}&quot;</ETag>"
        f"<Size>{size}</Size></Contents>"
        for key, size in {"b": 2, "a": 1, "sub/": 0}.items()
    )
    store.answer = (200, f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{content}</ListBucketResult>".encode())
    assert folder.list() == [Entry("a", 1, "1"), Entry("b", 2, "2")]


def test_the_secrets_files_come_before_the_environment_and_empty_ones_do_not_count(tmp_path):
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("file\n")
    (tmp_path / "AWS_REGION").write_text("")
    environment = {"AWS_ACCESS_KEY_ID": "variable", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ENDPOINT_URL": ""}
    assert read_credentials(tmp_path, Failed, environment) == S3Credentials("file", "secret")
    assert read_credentials(tmp_path / "none", Failed, {}) == S3Credentials()


@pytest.mark.parametrize(("given", "missing"), [("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), ("SECRET_ACCESS_KEY", "ACCESS_KEY_ID")])
def test_half_a_pair_of_keys_is_refused_with_the_missing_name(tmp_path, given, missing):
    with pytest.raises(Failed, match=f"no key AWS_{missing}") as raised:
        read_credentials(tmp_path, Failed, {f"AWS_{given}": "x"})
    assert raised.value.problem is Problem.REFUSED
