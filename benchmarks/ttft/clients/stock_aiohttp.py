"""Stock aiohttp, as most probes are written: a line at a time, each chunk decoded, stamps when a delta is parsed.

t0 is read right before `session.post()`, with a warm connection in the pool: as near to the write as a caller gets.
"""

from __future__ import annotations

import asyncio
import json
import time

import aiohttp

from benchmarks.ttft.clients.closed_loop import Answer, keep_in_flight, options


async def _stream_once(session: aiohttp.ClientSession, url: str, prompt: str) -> Answer:
    body = {
        "model": "truth",
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 64,
    }
    answer = Answer(began=time.perf_counter())
    async with session.post(url, json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                answer.ended = time.perf_counter()
                continue
            chunk = json.loads(data)
            answer.response_id = chunk["id"]
            if not answer.first_token and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                answer.first_token = time.perf_counter()
    return answer


async def _main() -> None:
    given = options()
    url = f"{given.base_url}/chat/completions"
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        await keep_in_flight(lambda prompt: _stream_once(session, url, prompt), given)


if __name__ == "__main__":
    asyncio.run(_main())
