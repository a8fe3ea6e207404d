"""Mutual TLS: who is who, by certificates that one authority has signed.

Everybody shows a certificate, clients too. A node's certificate names the node's id, as a DNS name
among its alternative names: that, not an address, is what is checked, since a node is whoever has
its id, wherever it listens.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from walle.errors import ConfigError

if TYPE_CHECKING:
    import asyncio
    import os


@dataclass(frozen=True, slots=True)
class Tls:
    """Where the PEM files are; docs/security.md shows how to make them.

    authority: the certificate of the authority that signs all others.
    certificate: this end's own, with what chains it to the authority.
    key: the certificate's private key, not encrypted.
    """

    authority: str | os.PathLike[str]
    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str]

    def server_context(self) -> ssl.SSLContext:
        """For a node that accepts connections.

        Raises:
            ConfigError: a file cannot be read, or is not what it should be.
        """
        return self._context(ssl.PROTOCOL_TLS_SERVER)

    def client_context(self) -> ssl.SSLContext:
        """For whoever connects, clients and nodes.

        Raises:
            ConfigError: as above.
        """
        return self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = False  # node ids are checked instead, see `names`
        context.verify_mode = ssl.CERT_REQUIRED
        for key in ("authority", "certificate", "key"):
            path: str | os.PathLike[str] = getattr(self, key)
            try:
                Path(path).open("rb").close()
            except OSError as error:
                raise ConfigError(f"tls.{key}", f"cannot read {path}: {error.strerror}") from error
        try:
            context.load_verify_locations(self.authority)
        except ssl.SSLError as error:
            text = f"{self.authority} holds no certificate in PEM form: {error}"
            raise ConfigError("tls.authority", text) from error
        try:
            # A password would be asked for on the terminal: an encrypted key is an error instead.
            context.load_cert_chain(self.certificate, self.key, password="")
        except ssl.SSLError as error:
            text = f"{self.certificate} and {self.key} are no pair of certificate and key: {error}"
            raise ConfigError("tls.certificate", text) from error
        return context


def names(transport: asyncio.BaseTransport) -> frozenset[str]:
    """The DNS names in the other side's certificate, which the authority has signed."""
    certificate = transport.get_extra_info("peercert") or {}
    return frozenset(
        value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"
    )
