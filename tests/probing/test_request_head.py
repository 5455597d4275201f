"""A request's bytes: whole, framed, and nothing in them that a value could have smuggled in."""

import aiohttp
import pytest

from monitor.probing.dialects.dialect import ProbeRequest
from monitor.probing.request_head import Target

URL = "https://api.acme.example:8443/v1/chat/completions?a=b%2Fc"


def request_of(**headers: str) -> ProbeRequest:
    return ProbeRequest(URL, {name.replace("_", "-"): value for name, value in headers.items()}, b'{"a": 1}', 100)


async def test_a_request_is_head_and_body_in_one() -> None:
    message = Target(URL, None).message(request_of(Content_Type="application/json", X_Team="monitor"), closes=True)
    assert message == (
        b"POST /v1/chat/completions?a=b%2Fc HTTP/1.1\r\n"
        b"Host: api.acme.example:8443\r\n"
        b"Content-Type: application/json\r\n"
        b"X-Team: monitor\r\n"
        b"Content-Length: 8\r\n"
        b"Connection: close\r\n\r\n"
        b'{"a": 1}'
    )


async def test_a_connection_that_is_to_be_reused_is_not_closed() -> None:
    assert b"Connection" not in Target(URL, None).message(request_of(Accept="text/event-stream"), closes=False)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://acme.example/v1", "acme.example"),
        ("http://acme.example:80/v1", "acme.example"),
        ("https://[2001:db8::1]:444/v1", "[2001:db8::1]:444"),
    ],
)
async def test_the_host_is_named_as_a_browser_would(url: str, host: str) -> None:
    assert f"Host: {host}\r\n".encode() in Target(url, None).message(request_of(Accept="*/*"), closes=True)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b", "a\x7f"])
async def test_a_value_never_breaks_out_of_its_line(value: str) -> None:
    with pytest.raises(ValueError):
        Target(URL, None).message(request_of(X_Team=value), closes=True)


@pytest.mark.parametrize("url", ["ftp://acme.example/v1", "http:///v1", "acme.example/v1", ""])
async def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(aiohttp.InvalidURL):
        Target(url, None)


async def test_headers_are_written_anew_when_they_change_and_never_unchecked() -> None:
    target = Target(URL, None)
    first = target.message(request_of(X_Team="monitor"), closes=True)
    assert b"X-Team: others\r\n" in target.message(request_of(X_Team="others"), closes=True)
    with pytest.raises(ValueError):
        target.message(request_of(X_Team="a\nb"), closes=True)
    assert b"X-Team: others\r\n" in target.message(request_of(X_Team="others"), closes=True)
    assert target.message(request_of(X_Team="monitor"), closes=True) == first


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8080/v1", ("127.0.0.1", 8080)),
        ("http://10.0.0.1/v1", ("10.0.0.1", 80)),
        ("http://[::1]:8080/v1", ("::1", 8080, 0, 0)),
        ("http://127.1/v1", None),
        ("http://acme.example/v1", None),
        ("https://127.0.0.1/v1", None),
    ],
)
async def test_a_host_that_is_an_address_needs_nobody_to_find_it(url: str, address: tuple[object, ...] | None) -> None:
    found = Target(url, None).way.address
    assert (None if found is None else found[-1]) == address
