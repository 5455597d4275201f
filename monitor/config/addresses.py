"""Readers of addresses: where to listen, a provider's base URL, the database's URL. No URL is ever shown in a refusal:
people paste keys and passwords into them."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from urllib.parse import SplitResult, urlsplit

from monitor.config.database_address import EXAMPLE as SERVER_EXAMPLE
from monitor.config.database_address import is_server, server_address
from monitor.config.reading import AlreadyTold, Refused, Value, shown

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_PASSWORD_IN_URL = re.compile(r"[A-Za-z0-9+.-]+://[^/?#]*:[^/?#]*@")


def host_and_port(value: Value) -> tuple[str, int]:
    """`127.0.0.1:9469`, `[::1]:9469`, `monitor.internal:9469`."""
    no_host = "names no host: 0.0.0.0 or [::] listens on all"
    return _host_and_port(value, no_host, "listen: 0.0.0.0:9469", "listen: {}")


def canary(value: Value) -> tuple[str, int]:
    """What is asked for a sign of life: as above, with a port that somebody can listen on."""
    example = "canaries: [one.one.one.one:443]"
    host, port = _host_and_port(value, "names no host", example, "canaries: [{}]")
    if port == 0:
        raise Refused(f"{shown(value.text('host:port'))} has port 0, where nobody listens", example)
    return host, port


def _host_and_port(value: Value, no_host: str, example: str, shape: str) -> tuple[str, int]:
    text = value.text("host:port")
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not _PORT.fullmatch(port):
        value.wrong("host:port")
    if not host:
        raise Refused(f"{shown(text)} {no_host}", example)
    if not _is_host(host):
        if _is_ip_address(bare, 6):
            raise Refused(f"{shown(text)} has an IPv6 address without brackets", shape.format(f"'[{bare}]:{port}'"))
        raise Refused(f"{shown(text)} names no valid host")
    if int(port) > 65535:
        raise Refused(f"{shown(text)} has a port above 65535")
    return bare, int(port)


def _is_host(host: str) -> bool:
    """As it stands before a port: an IPv6 address in brackets."""
    if host.startswith("["):
        return host.endswith("]") and _is_ip_address(host[1:-1], 6)
    # What ends in a number is an address to every resolver, so it has to be a whole one.
    if host.rstrip(".").rpartition(".")[2].isdigit():
        return _is_ip_address(host, 4)
    return _HOST_NAME.fullmatch(host) is not None


def _is_ip_address(text: str, version: int) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def base_url(value: Value) -> str:
    """An http or https URL without its trailing slashes. Never shown: people paste keys into URLs."""
    text = value.text("a URL")
    url = _split(text)
    if url is None or url.scheme not in ("http", "https"):
        raise Refused("is not an http:// or https:// URL")
    _, at, place = url.netloc.rpartition("@")
    host, colon, port = place.rpartition(":") if not place.endswith("]") else (place, "", "")
    faults = {
        "has a user or password in it: write the key as api_key": bool(at),
        "has a query or fragment: give only what the vendor's own SDK takes as its base": "?" in text or "#" in text,
        "names no valid host": not _is_host(host if colon else place),
        "has a port that is not 1 to 65535": colon and not (_PORT.fullmatch(port) and 0 < int(port) < 65536),
    }
    for message, is_so in faults.items():
        if is_so:
            value.tell(message)
    if any(faults.values()):
        raise AlreadyTold
    return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/")


def database_url(value: Value) -> str:
    """`sqlite:///path` or `postgresql://user@host/db`. Never shown: it may hold a password."""
    text = value.text("a database URL")
    has_password = _PASSWORD_IN_URL.match(text) is not None
    if has_password:
        value.tell(
            "has a password in the URL: take it out",
            "database: {url: postgresql://monitor@db.example/monitor, password: {env: DB_PASSWORD}}",
        )
        raise AlreadyTold
    if is_server(text):
        try:
            server_address(text)
        except ValueError as error:
            raise Refused(str(error), f"database: {SERVER_EXAMPLE}") from None
        return text
    if not text.startswith("sqlite:///") or not text.isprintable():
        raise Refused("is not sqlite:///path or postgresql://user@host/database")
    if "?" in text or "#" in text:
        raise Refused("has a query or fragment: give only the path")
    path = text.removeprefix("sqlite:///")
    if path == ":memory:" or not PurePosixPath(path).name or path.endswith("/"):
        raise Refused("names no file: what is acknowledged has to survive the process")
    return text


def _split(text: str) -> SplitResult | None:
    if not text.isascii() or not text.isprintable() or any(letter in ' "<>\\^`{|}' for letter in text):
        return None
    try:
        return urlsplit(text)
    except ValueError:
        return None
