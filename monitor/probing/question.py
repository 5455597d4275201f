"""What a probe asks, whatever the dialect. Pure values."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A function that the model is to call. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: Mapping[str, object]


class Question(msgspec.Struct, frozen=True, gc=False):
    """One question. What is None or empty is not asked for.

    kind        image   tool   schema   is sent as
    chat                                a user message that is to be answered by a stream
    long                                the same; `prompt` is long
    cache                               the same; `prompt` begins with `prefix_bytes` that stay the same
    vision      PNG                     the image goes before the text, in the same message
    tools               called          the tool must be called: say so where the API can
    json                       holds    the answer is JSON that the schema describes
    embeddings                          the text whose vector is wanted; not streamed"""

    prompt: str
    max_tokens: int
    kind: str = "chat"
    image: bytes | None = None
    tool: Tool | None = None
    schema: Mapping[str, object] | None = None
    prefix_bytes: int = 0  # of the prompt's UTF-8: where a cache may be told to end
