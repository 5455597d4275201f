"""Access tokens of a Google Cloud service account, signed here: no exchange, so no request and no wait. Pure.

Google's APIs take such a token as one from their token server: https://google.aip.dev/auth/4111.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from monitor.secret import SecretMissing

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_LIFETIME_SECONDS = 3600  # the most that Google takes
_RENEWAL_SECONDS = 1800
_SKEW_SECONDS = 60  # our clock may be ahead of Google's
_REMEDY = "write an access token, or the JSON key file of a service account"


def is_account(api_key: str) -> bool:
    """Whether it is a key file's JSON, and no token or API key."""
    return api_key.startswith("{")


def access_token(key_file: str, now: float) -> str:
    """A token that is good for half an hour or longer. `now`: UTC seconds. SecretMissing says why there is none."""
    return _signed(key_file, int(now // _RENEWAL_SECONDS))


# A millisecond of arithmetic for each token, and some 40 to load the library for the first: both seldom enough.
@lru_cache(maxsize=64)
def _signed(key_file: str, period: int) -> str:
    try:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa
    except ImportError:
        raise SecretMissing(
            "api_key holds a service account, and signing for it needs the package cryptography",
            "pip install 'llm-provider-monitor[vertex]', or write a file with an access token",
        ) from None
    account = _account(key_file)
    try:
        # Its primes were checked by whoever made it: that takes 40 ms, on the event loop.
        key = serialization.load_pem_private_key(
            account["private_key"].encode(), None, unsafe_skip_rsa_key_validation=True
        )
    except (ValueError, TypeError):
        raise SecretMissing("the service account's private_key in api_key is no PEM key", _REMEDY) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SecretMissing("the service account's private_key in api_key is no RSA key", _REMEDY)
    issued_at = period * _RENEWAL_SECONDS - _SKEW_SECONDS
    header = {"alg": "RS256", "typ": "JWT", "kid": account["private_key_id"]}
    email = account["client_email"]
    claims = {"iss": email, "sub": email, "iat": issued_at, "exp": issued_at + _LIFETIME_SECONDS, "scope": _SCOPE}
    signed = f"{_segment(msgspec.json.encode(header))}.{_segment(msgspec.json.encode(claims))}"
    return f"{signed}.{_segment(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _account(key_file: str) -> Mapping[str, str]:
    try:
        account: dict[str, Any] = msgspec.json.decode(key_file)
    except msgspec.DecodeError:
        raise SecretMissing("api_key begins as JSON and is none", _REMEDY) from None
    kind = account.get("type")
    if kind != "service_account":
        told = f" of the type {kind}" if isinstance(kind, str) and kind.replace("_", "").isalnum() else ""
        raise SecretMissing(f"api_key holds JSON{told} that is no service account", _REMEDY)
    for name in ("private_key", "private_key_id", "client_email"):
        if not isinstance(account.get(name), str):
            raise SecretMissing(f"the service account in api_key has no {name}", _REMEDY)
    return account


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
