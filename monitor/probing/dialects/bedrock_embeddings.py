"""Bedrock's embeddings: InvokeModel in the model's own words, which are Amazon Titan's or Cohere's.

https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html
and model-parameters-embed.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from monitor.probing.dialects.bedrock_errors import facts_of
from monitor.probing.dialects.dialect import Decoder
from monitor.probing.dialects.json_reading import count_of, decoded, dimensions_of, text_of
from monitor.probing.events import CONTROL, END, Event, Failed, Finish, FinishKind, Usage, Vector
from monitor.probing.framings.frame import Frame
from monitor.probing.question import Question


def vector_body(upstream: str, question: Question) -> Mapping[str, object]:
    """Cohere's where the model's id says so, else Titan's: an ARN of one's own does not tell, and `extra_body` may."""
    if "cohere." in upstream:
        return {"texts": [question.prompt], "input_type": "search_document"}
    return {"inputText": question.prompt}


class VectorDecoder(Decoder):
    closers = (b"inputTextTokenCount", b'"response_type"', b'"message"')

    def decode(self, frame: Frame) -> Iterable[Event]:
        """Titan: `{"embedding": [..], "inputTextTokenCount"}`. Cohere: `{"id", "embeddings": [[..]]}`, or by type,
        `{"embeddings": {"float": [[..]]}}`; it counts no tokens."""
        value = decoded(frame.data)
        if not isinstance(value, dict):
            return (CONTROL,)
        vectors = [value["embedding"]] if "embedding" in value else _coheres(value.get("embeddings"))
        if vectors is None:
            return (Failed(facts_of("", value)),)
        self.is_whole = True
        self.response_id = text_of(value.get("id")) or None
        events: list[Event] = [Vector("", size) for vector in vectors if (size := dimensions_of(vector))]
        tokens = count_of(value.get("inputTextTokenCount"))
        if tokens is not None:
            events.append(Usage(prompt_tokens=tokens))
        return (*events, Finish("stop", FinishKind.STOP), END)


def _coheres(embeddings: Any) -> list[Any] | None:
    if isinstance(embeddings, dict):
        return [vector for each in embeddings.values() if isinstance(each, list) for vector in each]
    return embeddings if isinstance(embeddings, list) else None
