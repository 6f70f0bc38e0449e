"""A throw-away TLS certificate that nobody vouches for: for a port that must speak HTTPS in a test.

Lives in memory and for the process: no key of the node's is used, none is kept. Real certificates
are a TLS proxy's concern.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFE = datetime.timedelta(days=7)
_SLACK = datetime.timedelta(minutes=10)  # clocks of others that are behind
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


def self_signed_context(host: str, *, now_s: float) -> ssl.SSLContext:
    """Return a server's TLS context with a fresh P-256 key and a certificate for `host` and the
    names of this machine, valid for a week from `now_s` (Unix seconds).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key, host, datetime.datetime.fromtimestamp(now_s, datetime.UTC))
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL takes a chain from a file only: 0600 in a directory of its own, gone right after.
    with tempfile.TemporaryDirectory(prefix="kwaainet-") as directory:
        path = Path(directory) / "chain.pem"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    return context


def _certificate(
    key: ec.EllipticCurvePrivateKey, host: str, now: datetime.datetime
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kwaainet, self-signed")])
    names = dict.fromkeys((*_LOCAL_NAMES, host or "localhost"))
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SLACK)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .sign(key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
