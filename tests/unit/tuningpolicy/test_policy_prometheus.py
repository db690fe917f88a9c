"""
Asking a Prometheus, over real sockets.

The answers are those of Prometheus 2.42 (recorded), and what else may be found behind an address. tests/api asks a whole one.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from graft_api.schema import parse
from graft_api.tuningpolicy import TuningPolicySpec
from graft_operator.engine.queue import Key
from graft_operator.tuningpolicy.evaluating import Evaluations, coverage
from graft_operator.tuningpolicy.prometheus import Prometheus, Server, Unreadable, is_local


def vector(*values):
    result = [{"metric": {}, "value": [1795000000.123, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


class Stand:
    """A server that answers each query as it is told, and keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.asked, self.tokens = answer, [], []

    async def post(self, request):
        form = await request.post()
        self.asked.append(form["query"])
        self.tokens.append(request.headers.get("Authorization"))
        found = self.answer(form["query"])
        if asyncio.iscoroutine(found):
            found = await found
        return found if isinstance(found, web.StreamResponse) else web.json_response(found)


@asynccontextmanager
async def serving(answer, tls=None):
    stand = Stand(answer)
    application = web.Application()
    application.router.add_post("/prom/api/v1/query", stand.post)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield stand, f"{'https' if tls else 'http'}://127.0.0.1:{port}/prom"
    finally:
        await runner.cleanup()


async def asked(answer, query="sum(x)"):
    async with serving(lambda _: answer) as (_, url):
        return await Prometheus(seconds=1).number(Server(url, anywhere=True), query)


NUMBERS = {
    "one series": (vector("0.25"), 0.25),
    "a scalar": ({"status": "success", "data": {"resultType": "scalar", "result": [1795000000, "7"]}}, 7.0),
    "no series": (vector(), None),
    "with a warning": (vector("3") | {"warnings": ["something"]}, 3.0),
}
REFUSED = {
    "several series": (vector("1", "2"), "gives 2 series"),
    "a division by zero": (vector("NaN"), "a division by zero"),
    "infinity": (vector("+Inf"), "division by zero"),
    "a range": ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "gives a matrix"),
    "something else's JSON": ({"hello": "world"}, "not that of a Prometheus"),
    "a list": ([], "not that of a Prometheus"),
    "no number": ({"status": "success", "data": {"resultType": "vector", "result": [{"value": ["a"]}]}}, "holds no number"),
    "no data": ({"status": "success"}, "gives a None"),
}


@pytest.mark.parametrize(("answer", "number"), NUMBERS.values(), ids=NUMBERS)
async def test_a_number_is_read(answer, number):
    assert await asked(answer) == number


@pytest.mark.parametrize(("answer", "words"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_number_is_said(answer, words):
    with pytest.raises(Unreadable, match=words):
        await asked(answer)


async def test_the_servers_own_word_about_a_bad_query_is_told():
    said = {"status": "error", "errorType": "bad_data", "error": "1:5: parse error: unclosed left parenthesis"}
    with pytest.raises(Unreadable, match=r"refused \(400\): 1:5: parse error"):
        await asked(web.json_response(said, status=400))


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (lambda: web.Response(text="<html>sign in</html>"), "without JSON"),
        (lambda: web.Response(status=302, headers={"Location": "http://elsewhere/"}), "without JSON"),
        (lambda: web.Response(text="[" * 70_000), "more than 64 KiB"),
        (lambda: web.Response(status=503, text="no"), "answered 503"),
    ],
    ids=["a sign-in page", "a redirect is not followed", "too much", "an error page"],
)
async def test_other_answers(response, words):
    with pytest.raises(Unreadable, match=words):
        await asked(response())


async def test_a_server_that_hangs_or_is_not_there_is_away():
    async def hang(_):
        await asyncio.sleep(30)

    async with serving(hang) as (_, url):
        with pytest.raises(Unreadable, match="no answer") as hangs:
            await Prometheus(seconds=0.2).number(Server(url, anywhere=True), "x")
    with pytest.raises(Unreadable, match="cannot be asked") as gone:
        await Prometheus(seconds=1).number(Server(url, anywhere=True), "x")
    assert hangs.value.away
    assert gone.value.away


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),  # noqa: S104
        ("169.254.169.254", True),
        ("fe80::1", True),
        ("10.96.0.10", False),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
    ],
)
def test_what_is_this_machine(address, local):
    assert is_local(address) is local


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "[::1]", "2130706433"])
async def test_a_policy_cannot_make_the_operator_ask_itself_or_the_clouds_metadata(host):
    async with serving(lambda _: vector("1")) as (stand, url):
        port = url.split(":")[2]
        with pytest.raises(Unreadable) as refused:
            await Prometheus(seconds=1).number(Server(f"http://{host}:{port}"), "x")
    assert refused.value.away
    assert not stand.asked


async def test_the_token_is_read_anew_each_time(tmp_path):
    token = tmp_path / "token"
    token.write_text("first\n")
    async with serving(lambda _: vector("1")) as (stand, url):
        server = Server(url, token_file=token, anywhere=True)
        await Prometheus().number(server, "x")
        token.write_text("second")
        await Prometheus().number(server, "x")
        token.unlink()
        with pytest.raises(Unreadable, match="token of the chart's prometheus cannot be read"):
            await Prometheus().number(server, "x")
    assert stand.tokens == ["Bearer first", "Bearer second"]


def _authority(tmp_path):
    """A certificate for 127.0.0.1 that vouches for itself."""
    import ipaddress
    import ssl

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "prometheus")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "both.pem").write_bytes(private + pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "both.pem")
    return context, pem.decode()


async def test_an_https_server_is_known_by_its_authority_alone(tmp_path):
    context, pem = _authority(tmp_path)
    async with serving(lambda _: vector("1"), context) as (stand, url):
        assert await Prometheus().number(Server(url, authority=pem, anywhere=True), "x") == 1.0
        with pytest.raises(Unreadable, match="cannot be asked"):
            await Prometheus().number(Server(url, anywhere=True), "x")
        with pytest.raises(Unreadable, match="no PEM certificate"):
            await Prometheus().number(Server(url, authority="nonsense", anywhere=True), "x")
    assert len(stand.asked) == 1


async def test_coverage_is_the_share_of_looks_at_which_something_was_there():
    async with serving(lambda _: vector("91")) as (stand, url):
        assert await coverage(Prometheus(), Server(url, anywhere=True), 'up{job="x"} == 1', "168h") == 0.91
    assert stand.asked == ['count_over_time((count(up{job="x"} == 1))[168h:6048s])']


class Clock:
    """Moved by hand."""

    def __init__(self):
        self.elapsed = 0.0

    def now(self):
        return datetime(2026, 11, 21, 12, tzinfo=UTC) + timedelta(seconds=self.elapsed)

    def monotonic(self):
        return self.elapsed


class NoKube:
    """No ConfigMap is there."""

    async def get(self, *_):
        return None


KEY = Key("team", "policy")


def spec_of(*criteria, **more):
    job = {
        "baseModel": {"uri": "s3://m/b"},
        "dataset": {"sources": [{"uri": "s3://d/r"}]},
        "evaluation": {"suites": [{"name": "compile", "scorer": {"cel": {}}}]},
        "output": {"uri": "s3://a"},
        "signing": {"secretRef": {"name": "k"}},
    }
    domain = {"name": "dsl", "criteria": list(criteria), "jobTemplate": {"spec": job}}
    return parse(TuningPolicySpec, {"endpointRef": {"name": "prod"}, "domains": [domain]} | more)


def counting(name="errors", **promql):
    base = {"bad": "bad[$window]", "total": "total[$window]", "present": "up"}
    return {"name": name, "promql": base | promql, "window": "1h", "above": "0.03"}


async def evaluated(answers, *criteria, default=True):
    """`answers`: by the beginning of the query."""

    def answer(query):
        return next(value for start, value in answers.items() if query.startswith(start))

    async with serving(answer) as (stand, url):
        evaluations = Evaluations(NoKube(), Clock(), Prometheus(seconds=1), Server(url, anywhere=True) if default else None)
        found = await evaluations.of(KEY, spec_of(*criteria), None)
    return stand.asked, {criterion: measured for (_, criterion), measured in found.measured.items()}


class TestEvaluating:
    async def test_three_questions_make_a_share(self):
        asked, found = await evaluated({"count": vector("100"), "total": vector("1000.5"), "bad": vector("50.25")}, counting())
        assert asked == ["count_over_time((count(up))[1h:36s])", "total[1h]", "bad[1h]"]
        assert (found["errors"].events, found["errors"].total, found["errors"].coverage) == (50.25, 1000.5, 1.0)

    @pytest.mark.parametrize(
        ("answers", "questions", "words", "fault"),
        [
            ({"count": vector("50")}, 1, "", False),
            ({"count": vector()}, 1, "present was there at no moment", True),
            ({"count": vector("100"), "total": vector()}, 2, "", False),
            ({"count": vector("100"), "total": vector("900"), "bad": vector()}, 3, "or vector(0)", True),
            ({"count": vector("100"), "total": vector("900"), "bad": vector("910")}, 3, "must count some of what total counts", True),
            ({"count": vector("100"), "total": vector("900"), "bad": vector("-1")}, 3, "must count some of what total counts", True),
            ({"count": vector("100"), "total": vector("NaN")}, 2, "division by zero", True),
        ],
        ids=["half a window", "never there", "no traffic", "no bad series", "more bad than all", "negative", "nothing of nothing"],
    )
    async def test_no_more_is_asked_than_is_needed_to_know_that_it_is_too_little(self, answers, questions, words, fault):
        asked, found = await evaluated(answers, counting())
        assert len(asked) == questions
        assert words in found["errors"].trouble
        assert (found["errors"].fault, found["errors"].events) == (fault, None)

    async def test_extrapolation_may_make_a_little_more_of_bad_than_of_total(self):
        _, found = await evaluated({"count": vector("100"), "total": vector("900"), "bad": vector("901")}, counting())
        assert found["errors"].events == 900

    async def test_a_plain_number_may_say_how_many_samples_it_rests_on(self):
        plain = {"name": "judge", "promql": {"query": "q[$window]", "bound": "None", "present": "up"}, "window": "1h", "above": "3"}
        _, found = await evaluated({"count": vector("100"), "q": vector("3.5")}, plain)
        assert (found["judge"].value, found["judge"].total) == (3.5, None)
        plain["promql"] = plain["promql"] | {"total": "t[$window]"}
        _, found = await evaluated({"count": vector("100"), "q": vector("3.5"), "t": vector()}, plain)
        assert (found["judge"].value, found["judge"].total) == (3.5, 0.0)

    async def test_without_a_server_or_its_authority_it_is_said_what_to_set(self):
        _, found = await evaluated({}, counting(), default=False)
        assert "set the criterion's promql.server, or the chart's value prometheus.url" in found["errors"].trouble
        server = {"url": "https://metrics.example", "caConfigMap": {"name": "ca"}}
        _, found = await evaluated({}, counting(server=server))
        assert "there is no ConfigMap ca with the key ca.crt" in found["errors"].trouble

    async def test_what_could_not_be_read_is_read_again_after_a_minute(self):
        async with serving(lambda _: vector()) as (_, url):
            clock = Clock()
            evaluations = Evaluations(NoKube(), clock, Prometheus(), Server(url, anywhere=True))
            first = await evaluations.of(KEY, spec_of(counting()), None)
            assert evaluations.due_in(KEY) == 60.0
            clock.elapsed = 60.0
            assert await evaluations.of(KEY, spec_of(counting()), None) is not first
            assert (await evaluations.of(KEY, spec_of(counting(), interval="10s"), None)).at == clock.now()

    async def test_a_server_that_is_away_is_asked_once_a_round(self):
        server = {"server": {"url": "http://127.0.0.1:1"}}
        _, found = await evaluated({}, counting("a", **server), counting("b", **server))
        assert found["a"].trouble == found["b"].trouble
        assert found["b"].fault

    async def test_readings_are_kept_for_the_interval_and_not_beyond_a_change(self):
        async with serving(lambda _: vector("100")) as (stand, url):
            clock = Clock()
            evaluations = Evaluations(NoKube(), clock, Prometheus(), Server(url, anywhere=True))
            first = await evaluations.of(KEY, spec_of(counting()), None)
            clock.elapsed = 299.0
            assert await evaluations.of(KEY, spec_of(counting(), enabled=True), None) is first
            assert evaluations.due_in(KEY) == 1.0
            changed = await evaluations.of(KEY, spec_of(counting("other")), None)
            assert changed is not first
            clock.elapsed += 300.0
            assert await evaluations.of(KEY, spec_of(counting("other")), None) is not changed
            evaluations.forget(KEY)
            assert evaluations.due_in(KEY) == 0.0
        assert len(stand.asked) == 9
