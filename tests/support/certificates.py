"""Certificates for tests, made when they are asked for."""

from __future__ import annotations

import datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.ssl import CertificateOptions, PrivateCertificate


@cache
def pem(host: str = "localhost") -> bytes:
    """A self-signed certificate for *host* and its key, PEM-encoded, one after the other."""
    return b"".join(certificate_and_key(host, 1))


def certificate_and_key(host: str, serial: int) -> tuple[bytes, bytes]:
    """A self-signed certificate for *host*, and its key, PEM-encoded."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def server_context() -> CertificateOptions:
    """A server's context factory with that certificate."""
    options: CertificateOptions = PrivateCertificate.loadPEM(pem()).options()
    return options
