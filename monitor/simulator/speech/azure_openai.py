"""OpenAI's API as Azure serves it, by deployment and in its v1 form: https://learn.microsoft.com/azure/ai-foundry/openai/"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import unquote

from monitor.outcome import Outcome
from monitor.simulator.ask import Ask
from monitor.simulator.behaviour import Script
from monitor.simulator.faults import ErrorBody
from monitor.simulator.members import SimEndpoint, SimProvider
from monitor.simulator.requests import BadRequest, Request
from monitor.simulator.speech.framings import json_event
from monitor.simulator.speech.openai_chat import Chunks, OpenAIChat
from monitor.simulator.speech.speech import ErrorAnswer, What, bearer_key
from monitor.simulator.written import Counts, Finish

API_VERSION = "2024-10-21"
_SAFE = {category: {"filtered": False, "severity": "safe"} for category in ("hate", "self_harm", "sexual", "violence")}
_NAMELESS = {"id": "", "object": "", "created": 0, "model": ""}
_PREFIX = re.compile(r"/openai(?:/v1|/deployments/(?P<deployment>[^/]+))?(?=/)")
# The status as the code, where Azure has no word of its own.
_CODES = {
    Outcome.AUTH: "401",
    Outcome.PERMISSION: "403",
    Outcome.RATE_LIMITED: "429",
    Outcome.NO_CAPACITY: "NoCapacity",
    Outcome.OVERLOADED: "ServiceUnavailable",
    Outcome.UNKNOWN_MODEL: "DeploymentNotFound",
    Outcome.SERVER_ERROR: "InternalServerError",
}
_STATUSES = {Outcome.NO_CAPACITY: 429}


class AzureOpenAI(OpenAIChat):
    name = "azure-openai"
    base_path = ""

    def route(self, request: Request, path: str) -> tuple[What, Mapping[str, str]]:
        """As OpenAI's, behind `/openai/deployments/{deployment}` or `/openai/v1`."""
        match = _PREFIX.match(path)
        what, names = super().route(request, path[match.end() :] if match else path)
        return what, {**names, "deployment": unquote(match["deployment"] or "") if match else ""}

    def key_of(self, request: Request) -> str:
        return request.headers.get("api-key", "") or bearer_key(request)

    def ask(self, request: Request, what: What, names: Mapping[str, str]) -> Ask:
        deployment = names["deployment"]
        if deployment and "api-version=" not in request.query:
            raise BadRequest(404, "Resource not found", "404")
        asked = super().ask(request, what, names)
        return replace(asked, upstream=deployment or asked.upstream)

    def vocabulary(self, script: Script, endpoint: SimEndpoint, ask: Ask, at: float) -> FilteredChunks:
        return FilteredChunks(self.response_id(endpoint.id, script.number), endpoint, ask, int(at))

    def error(self, error: ErrorBody, status: int) -> ErrorAnswer:
        code = _CODES.get(error.outcome, error.telling)
        waits: dict[str, str] = {}
        if error.retry_after_seconds is not None:
            seconds = error.retry_after_seconds
            waits = {"retry-after-ms": str(seconds * 1000), "retry-after": str(seconds)}
        body = {"error": {"code": code, "message": error.message}}
        return ErrorAnswer(_STATUSES.get(error.outcome, status), waits, body)

    def settings(self, provider: SimProvider) -> dict[str, object]:
        return {**super().settings(provider), "api_version": API_VERSION}


class FilteredChunks(Chunks):
    """With what Azure's filters say: of the prompt before the answer, of the answer behind it, asynchronously."""

    def opening(self) -> list[bytes]:
        results = [{"prompt_index": 0, "content_filter_results": _SAFE}]
        return [json_event({**_NAMELESS, "choices": [], "prompt_filter_results": results}), *super().opening()]

    def ending(self, finish: Finish, counts: Counts | None) -> list[bytes]:
        offsets = {"check_offset": 44, "start_offset": 44, "end_offset": 198}
        choice = {
            "content_filter_offsets": offsets,
            "content_filter_results": _SAFE,
            "finish_reason": None,
            "index": 0,
        }
        return [json_event({**_NAMELESS, "choices": [choice]}), *super().ending(finish, counts)]


SPEECH = AzureOpenAI()
