"""What is served before there are figures: a router must not learn that there are no endpoints, nor a person."""

from __future__ import annotations

from html import escape
from string import Template

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from monitor.web.answers import send
from monitor.web.errors import Unavailable
from monitor.web.room import ROOM

_RETRY_SECONDS = 2
_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="refresh" content="$seconds">
<title>LLM providers: starting</title>
</head>
<body>
<p role="status">starting: $reason</p>
</body>
</html>
""")


def once_started(handler: Handler) -> Handler:
    """503 with what is awaited, until the room has its first figures."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        if reason := request.app[ROOM].starting:
            raise Unavailable(f"starting: {reason}")
        return await handler(request)

    return guarded


def page_once_started(handler: Handler) -> Handler:
    """The same for people."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        reason = request.app[ROOM].starting
        if not reason:
            return await handler(request)
        html = _PAGE.substitute(reason=escape(reason), seconds=_RETRY_SECONDS)
        response = await send(request, html.encode(), "text/html; charset=utf-8", Unavailable.status)
        response.headers[hdrs.RETRY_AFTER] = str(_RETRY_SECONDS)
        return response

    return guarded
