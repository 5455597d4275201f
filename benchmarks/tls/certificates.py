"""Certificates for a ground-truth server, and the authority that a daemon is to trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

KEYS = {"ECDSA P-256": trustme.KeyType.ECDSA, "RSA 2048": trustme.KeyType.RSA}


@dataclass(frozen=True, slots=True)
class Certificate:
    authority: Path
    chain: Path
    key: Path

    @property
    def server_words(self) -> tuple[str, ...]:
        return "--tls", str(self.chain), str(self.key)

    @property
    def environment(self) -> dict[str, str]:
        """By which OpenSSL, and so the daemon, finds the authority."""
        return {"SSL_CERT_FILE": str(self.authority)}


def made_certificate(directory: Path, key: str, hosts: Sequence[str]) -> Certificate:
    """For all `hosts`; `key` is one of KEYS, the authority's too."""
    kind = KEYS[key]
    authority = trustme.CA(key_type=kind)
    leaf = authority.issue_cert(*hosts, key_type=kind)
    paths = Certificate(*(directory / f"{kind.name}-{part}.pem" for part in ("authority", "chain", "key")))
    authority.cert_pem.write_to_path(paths.authority)
    for blob in leaf.cert_chain_pems:
        blob.write_to_path(paths.chain, append=True)
    leaf.private_key_pem.write_to_path(paths.key)
    return paths
