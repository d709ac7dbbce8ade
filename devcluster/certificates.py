"""The certificates of one cluster, the key of its service accounts, and kubeconfigs."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = dt.timedelta(days=365)
_CLOCK_SKEW = dt.timedelta(minutes=5)
SERVING_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key as PEM files."""

    certificate: Path
    key: Path


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ),
    )
    return key


def write_service_account_key(folder: Path) -> KeyPair:
    """The key pair of service account tokens; its ``certificate`` is the bare public key."""
    pair = KeyPair(folder / "service-account.pub", folder / "service-account.key")
    if not pair.certificate.exists():
        key = _new_key(pair.key)
        pair.certificate.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return pair


class Authority:
    """A certificate authority that keeps itself and all it issues in one folder, and reuses what is there."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._pair = KeyPair(folder / f"{name}.crt", folder / f"{name}.key")
        if not self._pair.certificate.exists():
            self._create(name)
        self._key = serialization.load_pem_private_key(self._pair.key.read_bytes(), password=None)
        self._certificate = x509.load_pem_x509_certificate(self._pair.certificate.read_bytes())

    @property
    def pair(self) -> KeyPair:
        """The authority's own certificate and key."""
        return self._pair

    def serving_certificate(self, name: str, addresses: Sequence[str] = ()) -> KeyPair:
        """A certificate for servers on loopback and at the IP ``addresses``, good for clients too."""
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in SERVING_NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", *addresses)]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(name, name, (), usages, x509.SubjectAlternativeName(names))

    def client_certificate(self, file_name: str, user: str, groups: Sequence[str] = ()) -> KeyPair:
        """A certificate that the API server takes for ``user`` in ``groups``."""
        return self._issue(file_name, user, groups, [ExtendedKeyUsageOID.CLIENT_AUTH], None)

    def _create(self, name: str) -> None:
        key = _new_key(self._pair.key)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _unsigned(subject, subject, key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self._pair.certificate.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _issue(
        self,
        file_name: str,
        common_name: str,
        groups: Sequence[str],
        usages: list[x509.ObjectIdentifier],
        alternatives: x509.SubjectAlternativeName | None,
    ) -> KeyPair:
        pair = KeyPair(self._folder / f"{file_name}.crt", self._folder / f"{file_name}.key")
        if pair.certificate.exists():
            return pair
        if not isinstance(self._key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._pair.key} is not an elliptic curve key")
        key = _new_key(pair.key)
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = _unsigned(subject, self._certificate.subject, key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        # The certificate is written last, whole or not at all: its presence says that the pair is complete.
        unfinished = pair.certificate.with_suffix(".partial")
        unfinished.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        unfinished.rename(pair.certificate)
        return pair


def _unsigned(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def write_webhook_kubeconfig(path: Path, client: KeyPair) -> None:
    """Write a kubeconfig by which an API server shows a client certificate to every webhook that asks for one."""
    credentials = {"client-certificate": str(client.certificate), "client-key": str(client.key)}
    document = {"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": credentials}]}
    _write_secret(path, yaml.safe_dump(document, sort_keys=False).encode())


def write_kubeconfig(path: Path, *, server: str, authority: Authority, client: KeyPair, user: str) -> None:
    """Write a self-contained kubeconfig whose only context is called ``devcluster``."""

    def embedded(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": embedded(authority.pair.certificate)}
    credentials = {
        "client-certificate-data": embedded(client.certificate),
        "client-key-data": embedded(client.key),
    }
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "devcluster", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [
            {"name": "devcluster", "context": {"cluster": "devcluster", "user": user, "namespace": "default"}}
        ],
        "current-context": "devcluster",
    }
    _write_secret(path, yaml.safe_dump(document, sort_keys=False).encode())
