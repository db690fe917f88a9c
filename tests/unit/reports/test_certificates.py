from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from graft_operator.engine.errors import NotYet, Unavailable
from graft_operator.reports.certificates import (
    FileCertificate,
    Material,
    from_secret,
    renewed,
    service_names,
    to_secret_data,
)
from graft_operator.reports.tls import ServingCertificate, load

NAMES = service_names("graft-reports", "graft-system")
START = datetime(2026, 11, 20, tzinfo=UTC)


def certificates(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


@pytest.fixture(scope="module")
def first() -> Material:
    made = renewed(None, NAMES, START)
    assert made is not None
    return made


def after(**passed: float) -> datetime:
    return START + timedelta(**passed)


class TestWhatIsMade:
    def test_the_leaf_is_for_the_service(self, first: Material) -> None:
        (leaf,) = certificates(first.chain)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
        assert names == ["graft-reports.graft-system.svc", "graft-reports.graft-system.svc.cluster.local"]
        assert timedelta(days=90) <= leaf.not_valid_after_utc - START < timedelta(days=91)

    def test_the_authority_is_one_and_signed_it(self, first: Material) -> None:
        (authority,), (leaf,) = certificates(first.bundle), certificates(first.chain)
        leaf.verify_directly_issued_by(authority)
        assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert isinstance(authority.public_key(), ec.EllipticCurvePublicKey)
        assert timedelta(days=3650) <= authority.not_valid_after_utc - START < timedelta(days=3651)

    def test_no_key_in_a_log(self, first: Material) -> None:
        assert "PRIVATE" not in repr(first)
        assert "PRIVATE" not in first.bundle + first.chain


class TestWhenItIsRenewed:
    @pytest.mark.parametrize(
        ("now", "due"),
        [
            pytest.param(after(days=1), False, id="young"),
            pytest.param(after(days=59), False, id="just before two thirds of its life"),
            pytest.param(after(days=61), True, id="after two thirds of its life"),
            pytest.param(after(days=200), True, id="long expired, the operator was away"),
        ],
    )
    def test_the_leaf(self, first: Material, now: datetime, due: bool) -> None:
        replacement = renewed(first, NAMES, now)
        assert (replacement is not None) is due
        if replacement:
            assert replacement.bundle == first.bundle
            certificates(replacement.chain)[0].verify_directly_issued_by(certificates(first.bundle)[0])
            assert renewed(replacement, NAMES, now) is None

    def test_the_leaf_when_its_names_are_others(self, first: Material) -> None:
        replacement = renewed(first, service_names("graft-reports", "elsewhere"), after(days=1))
        assert replacement is not None
        assert renewed(replacement, service_names("graft-reports", "elsewhere"), after(days=1)) is None

    def test_the_authority_stays_trusted_and_the_leaf_follows_later(self, first: Material) -> None:
        now = after(days=2440)
        rotated = renewed(first, NAMES, now)
        assert rotated is not None
        old, new = certificates(first.bundle)[0], certificates(rotated.bundle)[0]
        assert certificates(rotated.bundle)[1:] == [old]
        assert rotated.chain == first.chain, "pods do not trust the new authority yet"
        assert rotated.authority_key != first.authority_key
        assert old.subject != new.subject

    def test_a_valid_leaf_of_the_old_authority_waits_for_the_new_one_to_be_known(self, first: Material) -> None:
        young = renewed(first, NAMES, after(days=2380))
        assert young is not None
        now = after(days=2441)
        rotated = renewed(young, NAMES, now)
        assert rotated is not None
        assert renewed(rotated, NAMES, now + timedelta(minutes=50)) is None
        followed = renewed(rotated, NAMES, now + timedelta(minutes=70))
        assert followed is not None
        certificates(followed.chain)[0].verify_directly_issued_by(certificates(rotated.bundle)[0])
        assert followed.bundle == rotated.bundle

    def test_an_expired_authority_leaves_the_bundle(self, first: Material) -> None:
        rotated = renewed(first, NAMES, after(days=2440))
        assert rotated is not None
        again = renewed(rotated, NAMES, after(days=2440 + 2440))
        assert again is not None
        assert len(certificates(again.bundle)) == 2

    def test_everything_when_the_authority_has_expired(self, first: Material) -> None:
        replacement = renewed(first, NAMES, after(days=4000))
        assert replacement is not None
        assert len(certificates(replacement.bundle)) == 1


class TestSecret:
    def test_there_and_back(self, first: Material) -> None:
        assert from_secret({"data": to_secret_data(first)}) == first

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({}, id="a part is missing"),
            pytest.param({"ca.key": ""}, id="a part is empty"),
            pytest.param({"tls.crt": "bm90IGEgY2VydGlmaWNhdGU="}, id="no certificate"),
            pytest.param({"ca.crt": "%%%"}, id="not base64"),
        ],
    )
    def test_what_cannot_be_used_is_made_anew(self, first: Material, change: dict[str, str]) -> None:
        data = {**to_secret_data(first), **change}
        if not change:
            del data["tls.key"]
        assert from_secret({"data": data}) is None

    def test_as_the_chart_made_it(self) -> None:
        assert from_secret({"metadata": {}}) is None

    def test_a_key_of_another_certificate_is_made_anew(self, first: Material) -> None:
        other = renewed(None, NAMES, START)
        assert other is not None
        for key in ("tls.key", "ca.key"):
            assert from_secret({"data": {**to_secret_data(first), key: to_secret_data(other)[key]}}) is None


class Source:
    """Gives what a test says."""

    def __init__(self, *materials: Material | Exception) -> None:
        self.materials = list(materials)

    async def current(self) -> Material:
        material = self.materials.pop(0) if len(self.materials) > 1 else self.materials[0]
        if isinstance(material, Exception):
            raise material
        return material


class TestServing:
    async def test_no_bundle_before_there_is_a_certificate(self, clock: Any, first: Material) -> None:
        certificate = ServingCertificate(Source(first), clock)
        with pytest.raises(NotYet):
            _ = certificate.bundle
        assert certificate.problem()
        await certificate.refresh()
        assert certificate.problem() is None
        assert certificate.bundle == first.bundle

    async def test_a_failure_is_tried_again(self, clock: Any, first: Material) -> None:
        certificate = ServingCertificate(Source(NotYet("wait", timedelta(seconds=10)), Unavailable("away"), first), clock)
        task = asyncio.create_task(certificate.run())
        for _ in range(3):
            await clock.advance(10)
        assert certificate.bundle == first.bundle
        assert clock.sleeps == [10.0, 10.0, 60.0]
        task.cancel()

    async def test_new_connections_get_the_new_certificate_and_open_ones_stay(self, first: Material) -> None:
        second = renewed(None, NAMES, datetime.now(UTC))
        third = renewed(None, NAMES, datetime.now(UTC))
        assert second is not None
        assert third is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load(context, second)

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(line)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]

        async def connect(trusted: Material) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            client = ssl.create_default_context(cadata=trusted.bundle)
            return await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=NAMES[0])

        reader, writer = await connect(second)
        load(context, third)
        writer.write(b"still here\n")
        assert await reader.readline() == b"still here\n"
        _, other = await connect(third)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(second)
        for open_one in (writer, other):
            open_one.close()
            await open_one.wait_closed()
        server.close()
        await server.wait_closed()

    def test_loading_leaves_no_file_open(self, first: Material) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), first)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestFiles:
    async def test_as_cert_manager_mounts_them(self, tmp_path: Path, first: Material) -> None:
        for name, text in (("ca.crt", first.bundle), ("tls.crt", first.chain), ("tls.key", first.key)):
            (tmp_path / name).write_text(text)
        assert (await FileCertificate(tmp_path).current()).chain == first.chain

    async def test_not_there_yet(self, tmp_path: Path) -> None:
        with pytest.raises(NotYet, match=r"ca\.crt"):
            await FileCertificate(tmp_path).current()
