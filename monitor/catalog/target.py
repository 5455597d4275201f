"""What a probe is aimed at, as one string: a success under one target does not vouch for another."""

from __future__ import annotations

import hashlib

from monitor.catalog.model import Endpoint
from monitor.observation import CHAT


def target_of(endpoint: Endpoint) -> str:
    """Dialect, upstream and a digest of the base URL and what stands in for it (a region, a deployment's API version):
    what has to stay the same for an earlier success to count; and what is asked, where it is not chat."""
    # A digest: this is kept in the database, and nothing stops a careless user from writing a key into a URL.
    options = sorted((name, value) for name, value in endpoint.options.items() if isinstance(value, str))
    place = "\n".join([endpoint.base_url, *(f"{name}={value}" for name, value in options)])
    digest = hashlib.blake2b(place.encode(), digest_size=8).hexdigest()
    target = f"{endpoint.dialect} {endpoint.upstream} {digest}"
    return target if endpoint.kind == CHAT else f"{endpoint.kind}: {target}"
