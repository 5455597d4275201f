"""What a probe is aimed at, as one string: a success under one target does not vouch for another."""

from __future__ import annotations

from monitor.catalog.model import Endpoint


def target_of(endpoint: Endpoint) -> str:
    """`dialect base_url upstream`: what has to stay the same for an earlier success to count."""
    return f"{endpoint.dialect} {endpoint.base_url.rstrip('/')} {endpoint.upstream}"
