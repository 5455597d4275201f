"""Mistral's chat completions and embeddings: OpenAI's, with other manners.

https://docs.mistral.ai/api. Usage comes in the last chunk unasked; `stream_options` is refused with 422. Content is a
string or a list of parts, of which some are thinking. Its errors stand at the top: `{"object": "error", "message",
"type", "code"}`, FastAPI's `{"detail": [...]}`, or the latter within the former's message.
"""

from __future__ import annotations

from monitor.catalog.model import Endpoint
from monitor.outcome import Outcome
from monitor.probing.dialects.dialect import Credentials, joined
from monitor.probing.dialects.openai_chat import OpenAIChat
from monitor.probing.error_codes import GENERAL, Hint, table
from monitor.probing.question import Question, Tool


class Mistral(OpenAIChat):
    """`base_url` is what the SDK takes as server_url, https://api.mistral.ai; `/v1` at its end does no harm."""

    name = "mistral"
    codes = GENERAL.with_own(
        telling=table(
            (Hint.CAPACITY, "service_tier_capacity_exceeded"),
            (Outcome.PERMISSION, "tier_not_allowed"),
        )
    )

    def _url(self, endpoint: Endpoint, credentials: Credentials, path: str) -> str:
        base, question_mark, query = endpoint.base_url.partition("?")
        base = base.rstrip("/").removesuffix("/v1")
        return joined(f"{base}/v1{question_mark}{query}", path)

    def _body(self, endpoint: Endpoint, question: Question, cap: int) -> dict[str, object]:
        body = super()._body(endpoint, question, cap)
        body.pop("stream_options", None)
        return body

    def _tool_choice(self, tool: Tool) -> object:
        return "any"


DIALECT = Mistral()
