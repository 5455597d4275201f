"""The bodies kept under `streams/bedrock/`, as they are built. `python tests/probing/dialects/bedrock_streams.py` (with
tests/probing on the path) writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aws_messages import BLOCK_STOP, START, error, event, exception, stop, text, usage

DIRECTORY = Path(__file__).parent / "streams" / "bedrock"


def delta(index: int, **fields: Any) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": fields})


def block_stop(index: int) -> bytes:
    return event("contentBlockStop", {"contentBlockIndex": index})


def _broken() -> bytes:
    message = bytearray(text(" Tag"))
    message[-1] ^= 1
    return bytes(message)


_WHOLE = {
    "metrics": {"latencyMs": 612},
    "output": {"message": {"role": "assistant", "content": [{"text": "Grüße"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 12, "outputTokens": 3, "totalTokens": 15},
}

_CALL = {"toolUseId": "tooluse_Yk2", "name": "echo"}

BODIES: Mapping[str, bytes] = {
    "happy.bin": b"".join(
        [START, text("nonce"), text("23456"), text(" 1 é €"), text(""), BLOCK_STOP, stop(), usage(25, 6)]
    ),
    "reasoning.bin": b"".join(
        [
            START,
            delta(0, reasoningContent={"text": "Let me"}),
            delta(0, reasoningContent={"text": " think"}),
            delta(0, reasoningContent={"signature": "EqoBCkgIARAB"}),
            block_stop(0),
            delta(1, text="4"),
            block_stop(1),
            stop("max_tokens"),
            usage(20, 64, cacheReadInputTokens=1024, cacheWriteInputTokens=0),
        ]
    ),
    "tools-call.bin": b"".join(
        [
            START,
            event("contentBlockStart", {"contentBlockIndex": 0, "start": {"toolUse": _CALL}}),
            delta(0, toolUse={"input": ""}),
            delta(0, toolUse={"input": '{"text": '}),
            delta(0, toolUse={"input": '"é"}'}),
            block_stop(0),
            stop("tool_use"),
            usage(410, 22),
        ]
    ),
    "exception.bin": START + exception("throttlingException", {"message": "Too many requests, please wait."}),
    "failed.bin": START
    + text("a")
    + exception("modelStreamErrorException", {"message": "The model failed.", "originalStatusCode": 500}),
    "failed-inside.bin": START + text("a") + exception("internalServerException", {"message": "Try again."}),
    "failed-busy.bin": START + exception("serviceUnavailableException", {"message": "The service is unavailable."}),
    "failed-request.bin": START + exception("validationException", {"message": "The value at messages is invalid."}),
    "failed-slow.bin": START + text("a") + exception("modelTimeoutException", {"message": "It took too long."}),
    "usage-missing.bin": b"".join([START, text("Guten"), text(" Tag"), BLOCK_STOP, stop()]),
    "error.bin": error("InternalFailure", "The request processing has failed."),
    "guardrail.bin": b"".join([START, text("Sorry"), BLOCK_STOP, stop("guardrail_intervened"), usage(9, 2)]),
    "checksum.bin": b"".join([START, text("Guten"), _broken(), stop()]),
    "truncated.bin": b"".join([START, text("Guten"), text(" Tag")[:-7]]),
    "whole.json": json.dumps(_WHOLE, ensure_ascii=False).encode(),
    "embeddings-titan.json": b'{"embedding":[0.0135,-0.0262,1],"embeddingsByType":{"float":[0.0135,-0.0262,1]},'
    b'"inputTextTokenCount":9}',
    "embeddings-cohere.json": b'{"id":"a1b2","response_type":"embeddings_floats","embeddings":[[0.1,0.2]],"texts":[]}',
    "embeddings-by-type.json": b'{"id":"a1b3","response_type":"embeddings_by_type","embeddings":{"float":[[1,0.2,3]]}}',
    "embeddings-refused.json": b'{"message":"The provided model identifier is invalid."}',
    "refused.json": b'{"__type":"com.amazon.coral.service#ServiceUnavailableException","message":"busy"}\n',
}

if __name__ == "__main__":
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, body in BODIES.items():
        (DIRECTORY / name).write_bytes(body)
