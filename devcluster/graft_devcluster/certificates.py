"""Keys and certificates of a cluster, made with the openssl program: the standard library can verify but not sign.

Three authorities on purpose: etcd believes every certificate of its authority, extension API servers believe whatever
user the holder of a front-proxy certificate names, and the cluster's own authority signs the requests of users.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from graft_devcluster.errors import ClusterError
from graft_devcluster.process import write_atomically

_DAYS = "3650"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

CLUSTER_AUTHORITY = "ca"
ETCD_AUTHORITY = "etcd-ca"
FRONT_PROXY_AUTHORITY = "front-proxy-ca"


@dataclass(frozen=True)
class Identity:
    """A certificate to have: file name, who it is for (user and groups of Kubernetes), and where it serves, if it does."""

    file: str
    common_name: str
    organizations: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    authority: str = CLUSTER_AUTHORITY


class Pki:
    """A folder with authorities and certificates. What exists is kept, so that `up` can run again on a live cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def ensure(self, identities: Iterable[Identity]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for authority in (CLUSTER_AUTHORITY, ETCD_AUTHORITY, FRONT_PROXY_AUTHORITY):
            if not self.certificate(authority).exists():
                self._request(authority, ["-subj", f"/CN=graft {authority}", *authority_extensions()])
        if not self.key("service-accounts").exists():
            _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(self.key("service-accounts")))
            _openssl("ec", "-in", str(self.key("service-accounts")), "-pubout", "-out", str(self.folder / "service-accounts.pub"))
        for identity in identities:
            if not self.certificate(identity.file).exists():
                signer = ["-CA", str(self.certificate(identity.authority)), "-CAkey", str(self.key(identity.authority))]
                self._request(identity.file, [*signer, *request_arguments(identity)])

    def _request(self, name: str, arguments: list[str]) -> None:
        """The certificate appears last and at once: its existence means that the key beside it is whole."""
        partial = self.certificate(name).with_suffix(".partial")
        _openssl("req", "-x509", "-days", _DAYS, *_KEY, "-keyout", str(self.key(name)), "-out", str(partial), *arguments)
        self.key(name).chmod(0o600)
        partial.replace(self.certificate(name))


def authority_extensions() -> list[str]:
    # An empty configuration file, or openssl adds the host's own extensions, some of them a second time.
    return ["-config", "/dev/null", *_extensions("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")]


def request_arguments(identity: Identity) -> list[str]:
    """Subject and extensions of a leaf. Every leaf may act as a client; those with an address or name may serve too."""
    subject = "".join(f"/O={group}" for group in identity.organizations) + f"/CN={identity.common_name}"
    served = [f"IP:{address}" for address in identity.addresses] + [f"DNS:{name}" for name in identity.names]
    usage = "clientAuth,serverAuth" if served else "clientAuth"
    extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", f"extendedKeyUsage={usage}"]
    if served:
        extensions.append(f"subjectAltName={','.join(served)}")
    return ["-config", "/dev/null", "-subj", subject, *_extensions(*extensions)]


def kubeconfig(server: str, pki: Pki, identity: str, user: str, namespace: str = "default") -> str:
    """A kubeconfig with everything inside it, as JSON, which every YAML reader takes."""
    cluster = {"server": server, "certificate-authority-data": _encoded(pki.certificate(CLUSTER_AUTHORITY))}
    credentials = {
        "client-certificate-data": _encoded(pki.certificate(identity)),
        "client-key-data": _encoded(pki.key(identity)),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "graft", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "graft", "context": {"cluster": "graft", "user": user, "namespace": namespace}}],
        "current-context": "graft",
    }
    return json.dumps(document, indent=1)


def write_kubeconfig(path: Path, server: str, pki: Pki, identity: str, user: str) -> Path:
    write_atomically(path, kubeconfig(server, pki, identity, user))
    return path


def _extensions(*lines: str) -> list[str]:
    return [argument for line in lines for argument in ("-addext", line)]


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, umask=0o077, check=False)
    if done.returncode:
        raise ClusterError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
