"""
The certificate of the reports server: an authority of our own for ten years, a serving leaf for ninety days.

Both lie in one named Secret of the operator's namespace, which every replica reads, and which whoever sees something due
writes with a precondition on its version: replicas that start together agree on the first write that wins.
With cert-manager the operator owns no key: it reads the files that cert-manager keeps up to date.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import Conflict, NotYet
from graft_operator.engine.kube import Kube
from graft_operator.engine.resources import SECRETS, Object

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=90)
RENEW_AT = 2 / 3
"""Of a certificate's life: a third is left to notice that renewal does not work."""
TRUST_DELAY = timedelta(hours=1)
"""A new authority signs nothing before its certificate had this long to reach the pods that must trust it."""
_BACKDATED = timedelta(minutes=10)
"""For clocks of nodes that run behind."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What the server serves with and what its callers must trust. PEM; no key is in the repr."""

    bundle: str
    """Certificates of the authorities to trust, the newest first."""
    chain: str
    key: str
    authority_key: str | None = None
    """Absent with cert-manager."""

    def __repr__(self) -> str:
        return "Material(...)"


class CertificateSource(Protocol):
    """Where the material comes from."""

    async def current(self) -> Material:
        """The material to use now; renews what is due. Raises `NotYet` while there is none."""


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """The names that pods call the server by."""
    return (f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local")


def renewed(material: Material | None, names: Sequence[str], now: datetime) -> Material | None:
    """
    Return the material that should replace this one, or None if nothing is due.

    A new authority keeps its unexpired predecessors in the bundle and leaves the serving certificate alone; that follows when
    pods had time to learn to trust it.
    """
    if material is None or material.authority_key is None or _expired(material.bundle, now):
        return _from_nothing(names, now)
    authority = _certificates(material.bundle)[0]
    if _due(authority, now):
        return _with_new_authority(material, now)
    leaf = _certificates(material.chain)[0]
    trusted = now - authority.not_valid_before_utc >= _BACKDATED + TRUST_DELAY
    unusable = leaf.not_valid_after_utc <= now or set(_names(leaf)) != set(names)
    if unusable or (trusted and _due(leaf, now)):
        return _with_new_leaf(material, names, now)
    return None


def _from_nothing(names: Sequence[str], now: datetime) -> Material:
    authority_key, authority = _new_authority(now)
    return _with_new_leaf(Material(_pem(authority), "", "", _key_pem(authority_key)), names, now)


def _with_new_authority(material: Material, now: datetime) -> Material:
    authority_key, authority = _new_authority(now)
    kept = [old for old in _certificates(material.bundle) if old.not_valid_after_utc > now]
    bundle = _pem(authority, *kept)
    return Material(bundle, material.chain, material.key, _key_pem(authority_key))


def _with_new_leaf(material: Material, names: Sequence[str], now: datetime) -> Material:
    authority = _certificates(material.bundle)[0]
    authority_key = serialization.load_pem_private_key((material.authority_key or "").encode(), None)
    if not isinstance(authority_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not an elliptic curve key")
    key, leaf = _new_leaf(authority, authority_key, names, now)
    return Material(material.bundle, _pem(leaf), _key_pem(key), material.authority_key)


def _new_authority(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial number is in the name: chains are found by name, and two authorities are in the bundle during a rotation.
    serial = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"graft reports {serial:x}"[:64])])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(now, AUTHORITY_LIFE)
        .serial_number(serial)
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def _new_leaf(
    authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, names: Sequence[str], now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(now, LEAF_LIFE)
        .serial_number(x509.random_serial_number())
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "graft-reports")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    return key, builder.sign(authority_key, hashes.SHA256())


def _builder(now: datetime, life: timedelta) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().not_valid_before(now - _BACKDATED).not_valid_after(now + life)


def _due(certificate: x509.Certificate, now: datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * RENEW_AT


def _expired(bundle: str, now: datetime) -> bool:
    return _certificates(bundle)[0].not_valid_after_utc <= now


def _names(certificate: x509.Certificate) -> list[str]:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def _certificates(pem: str) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem.encode())


def _pem(*certificates: x509.Certificate) -> str:
    return "".join(certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain).decode()


# In the Secret: the names of kubernetes.io/tls, and the authority's key beside them.
_FIELDS = {"bundle": "ca.crt", "chain": "tls.crt", "key": "tls.key", "authority_key": "ca.key"}


def from_secret(secret: Object) -> Material | None:
    """
    Read the Secret.

    None while it is as the chart made it, and where a part is missing, unreadable or does not fit the others: it is made anew.
    """
    data = secret.get("data") or {}
    try:
        material = Material(**{field: base64.b64decode(data[key], validate=True).decode() for field, key in _FIELDS.items()})
        fits = _fits(material.key, material.chain) and _fits(material.authority_key or "", material.bundle)
    except (KeyError, ValueError):
        return None
    return material if fits else None


def _fits(key: str, certificate: str) -> bool:
    public = serialization.load_pem_private_key(key.encode(), None).public_key()
    return public == _certificates(certificate)[0].public_key()


def to_secret_data(material: Material) -> dict[str, str]:
    """The `data` of the Secret."""
    return {key: base64.b64encode((getattr(material, field) or "").encode()).decode() for field, key in _FIELDS.items()}


@dataclass(frozen=True)
class SecretCertificate:
    """The one Secret that the chart made and that only the operator's Role names."""

    kube: Kube
    clock: Clock
    namespace: str
    name: str
    dns_names: tuple[str, ...]

    async def current(self) -> Material:
        """Read the Secret; write it when something is due. Every replica may: the API server lets one of them win."""
        secret = await self.kube.get(SECRETS, self.namespace, self.name)
        if secret is None:
            raise NotYet(f"Secret {self.namespace}/{self.name} is missing: run helm upgrade", timedelta(seconds=10))
        material = from_secret(secret)
        wanted = renewed(material, self.dns_names, self.clock.now())
        if wanted is None and material is not None:
            return material
        return await self._write(secret, wanted or _from_nothing(self.dns_names, self.clock.now()))

    async def _write(self, secret: Object, wanted: Material) -> Material:
        precondition = {"resourceVersion": secret["metadata"]["resourceVersion"], "uid": secret["metadata"]["uid"]}
        try:
            await self.kube.merge_patch(SECRETS, self.namespace, self.name, {"metadata": precondition, "data": to_secret_data(wanted)})
        except Conflict:
            logger.info("another replica renewed the certificate first")
            return await self.current()
        logger.info("renewed the certificate of the reports server")
        return wanted


@dataclass(frozen=True)
class FileCertificate:
    """Files of a mounted kubernetes.io/tls Secret that cert-manager keeps up to date: tls.crt, tls.key, ca.crt."""

    folder: Path

    async def current(self) -> Material:
        """Read the files."""
        try:
            bundle, chain, key = ((self.folder / name).read_text() for name in ("ca.crt", "tls.crt", "tls.key"))
        except FileNotFoundError as error:
            raise NotYet(f"{error.filename} is not there yet: is cert-manager running?", timedelta(seconds=10)) from error
        return Material(bundle, chain, key)
