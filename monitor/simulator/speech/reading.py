"""Reading of request bodies: what several APIs write alike. BadRequest where it cannot be read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from monitor.probing.question import Tool
from monitor.simulator.requests import BadRequest


def member(value: object, *names: str) -> object:
    """`value[name][name]..`, None where one of them is missing or no object."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def tool_of(function: Mapping[str, object], parameters: str = "parameters") -> Tool:
    """A function by its `name`, `description` and JSON schema, which stands under `parameters`."""
    name, schema = function.get("name"), function.get(parameters)
    if not isinstance(name, str) or not name:
        raise BadRequest(400, "A tool has no name.", "missing_required_parameter")
    description = function.get("description")
    return Tool(name, description if isinstance(description, str) else "", schema if isinstance(schema, dict) else {})


def base64_bytes(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        raise BadRequest(400, "Invalid base64 in the request.", "invalid_value") from None


def data_url_bytes(url: str) -> bytes:
    """What a `data:image/png;base64,..` holds. Nothing is fetched for any other URL."""
    head, comma, text = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise BadRequest(400, "Only data URLs in base64 are read here: data:image/png;base64,..", "invalid_image_url")
    return base64_bytes(text)
