"""The answer of OpenAI's embeddings, one JSON document, and of the many hosts that write it likewise.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from monitor.probing.dialects.dialect import Decoder
from monitor.probing.dialects.json_reading import count_of, decoded, dimensions_of, text_of
from monitor.probing.error_body import error_facts
from monitor.probing.events import CONTROL, END, Event, Failed, Finish, FinishKind, Usage, Vector
from monitor.probing.framings.frame import Frame


class EmbeddingsDecoder(Decoder):
    closers = (b'"usage"', b'"error"')

    def decode(self, frame: Frame) -> Iterable[Event]:
        value = decoded(frame.data)
        if not isinstance(value, dict):
            return (CONTROL,)
        if value.get("error") or value.get("object") == "error":
            return (Failed(error_facts(value)),)
        data = value.get("data")
        if not isinstance(data, list):
            return (CONTROL,)
        self.is_whole = True
        self.response_id = text_of(value.get("id")) or None
        self.response_model = text_of(value.get("model")) or None
        return (*_vectors(data), *_usage(value.get("usage")), Finish("stop", FinishKind.STOP), END)


def _vectors(data: list[Any]) -> Iterable[Event]:
    embeddings = (item.get("embedding") for item in data if isinstance(item, dict))
    return [Vector("", dimensions) for embedding in embeddings if (dimensions := dimensions_of(embedding))]


def _usage(usage: Any) -> Iterable[Event]:
    prompt = count_of(usage.get("prompt_tokens")) if isinstance(usage, dict) else None
    return () if prompt is None else (Usage(prompt_tokens=prompt),)
