"""The TLS context of the reports server. New connections get the newest certificate; open ones keep theirs."""

from __future__ import annotations

import logging
import os
import ssl
from datetime import timedelta

from graft_operator.engine.clock import Clock
from graft_operator.engine.errors import KubeError, NotYet
from graft_operator.reports.certificates import CertificateSource, Material

CHECK_EVERY = timedelta(minutes=1)

logger = logging.getLogger(__name__)


class ServingCertificate:
    """One SSLContext for the life of the process, loaded again whenever the material has changed."""

    def __init__(self, source: CertificateSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._material: Material | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    @property
    def bundle(self) -> str:
        """PEM of the authorities that callers must trust now. Raises `NotYet` before the first `refresh()`."""
        if self._material is None:
            raise NotYet("the reports server has no certificate yet", timedelta(seconds=2))
        return self._material.bundle

    def problem(self) -> str | None:
        """For /readyz: a replica without a certificate must not be sent any reports."""
        return None if self._material else "no certificate yet"

    async def refresh(self) -> None:
        """Fetch the material and load it if it changed. Raises `NotYet` or a `KubeError`."""
        material = await self._source.current()
        if self._material is None or (material.chain, material.key) != (self._material.chain, self._material.key):
            load(self.context, material)
        self._material = material

    async def run(self) -> None:
        """Keep it fresh until cancelled. A failure is logged and tried again: two thirds of a life were enough to get here."""
        while True:
            try:
                await self.refresh()
                pause = CHECK_EVERY
            except NotYet as wait:
                logger.warning("no certificate for the reports server yet: %s", wait)
                pause = wait.delay
            except (KubeError, ssl.SSLError) as error:
                logger.warning("the certificate of the reports server was not refreshed: %s", error)
                pause = CHECK_EVERY / 6
            await self._clock.sleep(pause.total_seconds())


def load(context: ssl.SSLContext, material: Material) -> None:
    """Load chain and key. The ssl module takes files only, so they go through memory that has no name: no key touches a disk."""
    with open(os.memfd_create("graft-tls", os.MFD_CLOEXEC), "wb") as pair:  # noqa: PTH123 - it is a descriptor
        pair.write(f"{material.chain}\n{material.key}".encode())
        pair.flush()
        context.load_cert_chain(f"/proc/self/fd/{pair.fileno()}")
