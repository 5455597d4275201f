"""The shapes in which providers tell an error, brought to one: `ErrorFacts`. Pure, and never raises.

OpenAI, Azure, Groq, Together, DeepSeek   {"error": {"message", "type", "param", "code"}}
Mistral, vLLM                             {"object": "error", "message", "type", "param", "code"}
FastAPI                                   {"detail": "..." or [{"type", "loc", "msg"}]}
OpenRouter                                {"error": {"code", "message", "metadata": {"error_type", "raw"}}}
Google                                    {"error": {"code", "message", "status", "details"}}, or a list of it
Cohere, gateways                          {"message": "..."}, {"error": "..."}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from monitor.probing.events import ErrorFacts
from monitor.probing.framings.frame import is_too_deep

MAX_ERROR_BYTES = 64 << 10
# Much more than the 500 characters of a detail, so that redaction sees keys whole.
_MAX_MESSAGE = 4000
_MAX_CODES = 12
_MAX_CODE = 100
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s?")
_TITLE = re.compile(r"<title[^<>]{0,500}+>([^<]*)", re.IGNORECASE)


def read_error_body(body: bytes) -> ErrorFacts:
    """The facts in the body of a response that is an error by its status; a body that is no JSON is the message."""
    if not is_too_deep(body):
        try:
            return error_facts(msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    text = body.decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        text = title[1].strip() if title else ""
    return ErrorFacts(message=text[:_MAX_MESSAGE])


def error_facts(decoded: Any) -> ErrorFacts:
    """The facts in decoded JSON of any shape; empty facts if it tells nothing."""
    if isinstance(decoded, list):
        decoded = next((item for item in decoded if isinstance(item, dict)), None)
    if isinstance(decoded, str):
        return ErrorFacts(message=decoded[:_MAX_MESSAGE])
    if not isinstance(decoded, dict):
        return ErrorFacts()
    error = decoded.get("error")
    if isinstance(error, str):
        # {"error": "model_not_found", "message": "..."} holds a code, {"error": "Too many requests"} a text.
        is_code = " " not in error
        decoded = {**decoded, "code" if is_code else "message": decoded.get("code" if is_code else "message") or error}
    inner = error if isinstance(error, dict) else decoded
    scopes = [inner] if inner is decoded else [inner, decoded]
    codes = list(dict.fromkeys(code[:_MAX_CODE] for scope in scopes for code in _codes(scope)))
    return ErrorFacts(
        codes=tuple(codes[:_MAX_CODES]),
        number=next((n for scope in scopes for key in ("code", "status") if (n := _number(scope.get(key)))), None),
        message=next((text for scope in scopes if (text := _message(scope))), "")[:_MAX_MESSAGE],
        retry_after_seconds=next((s for scope in scopes if (s := _retry_after(scope)) is not None), None),
    )


def _codes(error: dict[str, Any]) -> Iterator[str]:
    """Structured codes, the narrowest first: a code says more than a type, and a type more than a status."""
    metadata = _dict(error.get("metadata"))
    availability = _dict(error.get("availability"))
    inner = _dict(error.get("innererror"))
    for value in (
        error.get("code"),
        availability.get("code"),
        inner.get("code"),
        metadata.get("error_type"),
        metadata.get("provider_code"),
        _dict(error.get("details")).get("error_code"),
        error.get("error_code"),
        error.get("type"),
        error.get("status"),
    ):
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and value and value != "error" and _number(value) is None:
            yield value
    if "flagged_input" in metadata:  # OpenRouter's moderation, a 403 without a code
        yield "flagged_input"
    for item in _list(error.get("detail")):  # FastAPI
        kind = _dict(item).get("type")
        if isinstance(kind, str) and kind:
            yield kind
    for detail in _list(error.get("details")):
        detail = _dict(detail)
        if isinstance(detail.get("reason"), str):
            yield detail["reason"]
        for violation in _list(detail.get("violations")):
            quota = _dict(violation).get("quotaId")
            if isinstance(quota, str):
                yield quota


def _message(error: dict[str, Any]) -> str:
    message = error.get("message")
    if isinstance(message, dict | list):
        message = msgspec.json.encode(message).decode()
    text = message if isinstance(message, str) else ""
    for key in ("detail", "msg", "error_msg", "error_message"):
        text = text or _detail(error.get(key))
    raw = _dict(error.get("metadata")).get("raw")  # what OpenRouter heard from the provider behind it
    return f"{text}: {raw}" if isinstance(raw, str) and raw and raw not in text else text


def _detail(detail: Any) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, dict):
        return _message(detail)
    items = [item for item in detail if isinstance(item, dict)] if isinstance(detail, list) else []
    return "; ".join(
        f"{'.'.join(map(str, item['loc']))}: {item.get('msg')}" if isinstance(item.get("loc"), list) else _message(item)
        for item in items
    )


def _retry_after(error: dict[str, Any]) -> float | None:
    """Google's RetryInfo (`"retryDelay": "34.07s"`), or `retry_after` in seconds as OpenRouter and proxies write it."""
    metadata = _dict(error.get("metadata"))
    values = [
        error.get("retry_after"),
        metadata.get("retry_after"),
        _dict(error.get("availability")).get("retry_after"),
    ]
    for detail in _list(error.get("details")):
        values.append(_dict(detail).get("retryDelay"))
    for value in values:
        seconds = seconds_of(value)
        if seconds is not None:
            return seconds
    return None


def seconds_of(value: Any) -> float | None:
    """A span as a number or as `"34.07s"`; None if it is neither."""
    if isinstance(value, str):
        match = _SECONDS.fullmatch(value.strip())
        value = float(match[1]) if match and len(value) < 30 else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
        return None
    return float(value)


def _number(value: Any) -> int | None:
    """An HTTP status told as 429 or "429"."""
    if isinstance(value, str) and len(value) == 3 and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 100 <= value <= 599 else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
