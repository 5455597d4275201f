"""What stands around every handler: errors in their one shape, and headers that keep browsers from mischief."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from sqlalchemy.exc import SQLAlchemyError

from monitor.storage.errors import StorageError
from monitor.web.answers import error_answer
from monitor.web.errors import Unavailable, WebError
from monitor.web.query import shown
from monitor.web.sending import DEADLINE

# Our longest answers take a fraction of a second; what takes longer waits for a database that is not well.
ANSWER_SECONDS = 10.0

_SECURITY_HEADERS = {
    "Server": "llm-provider-monitor",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
}
_MESSAGES = {
    404: "nothing here: the routes begin with /api/v1/, and / and /metrics show what there is",
    413: "the request is too large: no route reads a body",
}

_log = logging.getLogger(__name__)


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    # What is shown is of this moment; static files say otherwise themselves.
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-cache")


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into {"error": {"code", "message"}}; only the log is told of internals."""
    try:
        # What changes something (a reload, a prune) takes as long as it takes, and is told of when it is done.
        async with asyncio.timeout(None if request.method == hdrs.METH_POST else ANSWER_SECONDS) as deadline:
            request[DEADLINE] = deadline
            return await handler(request)
    except WebError as error:
        return await error_answer(request, error.status, error.message, error.extra)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = await error_answer(request, 405, f"{shown(request.method)} is not allowed here: use {allowed}")
        response.headers[hdrs.ALLOW] = allowed
        return response
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return await error_answer(request, error.status, _MESSAGES.get(error.status, error.reason))
    except TimeoutError:
        _log.warning("web.timeout path=%s seconds=%g", shown(request.path), ANSWER_SECONDS)
        message = f"no answer within {ANSWER_SECONDS:g} s: ask for a shorter span, or try again"
        return await error_answer(request, Unavailable.status, message)
    except (StorageError, SQLAlchemyError) as error:
        _log.warning("web.database path=%s error=%s", shown(request.path), error)
        return await error_answer(request, Unavailable.status, "the database does not answer now: try again")
    except Exception:
        _log.exception("web.error path=%s", shown(request.path))
        return await error_answer(request, 500, "the monitor failed to answer: its log says why")
