"""Signature Version 4, by which AWS knows who asks. botocore signs; here is what it does not take: the time. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple


class Key(NamedTuple):
    """A credential, under the names by which botocore's signer reads one."""

    access_key: str
    secret_key: str
    token: str | None = None  # of a temporary key

    def __repr__(self) -> str:
        return "Key(***)"


def signature(
    url: str, headers: Mapping[str, str], body: bytes, key: Key, service: str, region: str, now: float
) -> dict[str, str]:
    """The headers to add to a POST of exactly this. `now`: UTC seconds."""
    # Imported here: it takes 0.1 s, and few dialects need it.
    from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
    from botocore.awsrequest import AWSRequest

    stamp = time.strftime(SIGV4_TIMESTAMP, time.gmtime(now))
    own = {"X-Amz-Date": stamp} | ({"X-Amz-Security-Token": key.token} if key.token else {})
    request = AWSRequest("POST", url, headers={**headers, **own}, data=body)
    request.context["timestamp"] = stamp
    # Step by step: `add_auth` takes the time from the machine's clock, and logs what it signs.
    signer = SigV4Auth(key, service, region)
    proof = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    credential, signed = signer.scope(request), signer.signed_headers(signer.headers_to_sign(request))
    own["Authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={proof}"
    return own
