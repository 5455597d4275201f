"""The official openai SDK, streaming. t0 is read right before `create()`, with a warm connection in its pool."""

from __future__ import annotations

import asyncio
import time

import httpx
from openai import AsyncOpenAI

from benchmarks.ttft.clients.closed_loop import Answer, keep_in_flight, options


async def _stream_once(client: AsyncOpenAI, prompt: str) -> Answer:
    answer = Answer(began=time.perf_counter())
    stream = await client.chat.completions.create(
        model="truth",
        messages=[{"role": "user", "content": prompt}],
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=64,
    )
    async for chunk in stream:
        answer.response_id = chunk.id
        if not answer.first_token and chunk.choices and chunk.choices[0].delta.content:
            answer.first_token = time.perf_counter()
    # The SDK keeps [DONE] to itself: its loop ends there.
    answer.ended = time.perf_counter()
    return answer


async def _main() -> None:
    given = options()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60)
    async with httpx.AsyncClient(limits=limits, timeout=60) as pool:
        client = AsyncOpenAI(base_url=given.base_url, api_key="none", http_client=pool, max_retries=0)
        await keep_in_flight(lambda prompt: _stream_once(client, prompt), given)


if __name__ == "__main__":
    asyncio.run(_main())
