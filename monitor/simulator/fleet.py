"""Who is in the default fleet. Models are real names; every provider is invented, so that nobody takes a simulated
figure for a measured one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from monitor.catalog.model import Model, Price
from monitor.simulator.draws import Draws
from monitor.simulator.faults import Fault
from monitor.simulator.members import Cycle, Fleet, Profile, SimEndpoint, SimProvider, always, fleet_of, key_of

__all__ = ["Fleet", "default_fleet"]

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0

MODELS = (
    Model(
        "openai/gpt-4o-mini",
        "OpenAI: GPT-4o-mini",
        "Small, cheap and quick; reads text and images.",
        128_000,
        "2024-07-18",
        "2023-10",
        ("text", "image"),
    ),
    Model(
        "anthropic/claude-3.5-haiku",
        "Anthropic: Claude 3.5 Haiku",
        "The quick one of its family, made for short answers and tools.",
        200_000,
        "2024-11-04",
        "2024-07",
        ("text", "image"),
    ),
    Model(
        "meta-llama/llama-3.3-70b-instruct",
        "Meta: Llama 3.3 70B Instruct",
        "Open weights, instruction-tuned, eight languages; served by many.",
        131_072,
        "2024-12-06",
        "2023-12",
    ),
    Model(
        "deepseek/deepseek-r1",
        "DeepSeek: R1",
        "Open weights, reasons at length before it answers.",
        163_840,
        "2025-01-20",
    ),
    Model(
        "qwen/qwen-2.5-72b-instruct",
        "Qwen2.5 72B Instruct",
        "Open weights, strong at code, mathematics and structured output.",
        131_072,
        "2024-09-19",
    ),
    Model(
        "mistralai/mistral-small-3.1-24b-instruct",
        "Mistral: Small 3.1 24B",
        "Open weights, small enough for one card; reads text and images.",
        131_072,
        "2025-03-17",
        "2023-10",
        ("text", "image"),
    ),
    Model(
        "google/gemma-3-27b-it",
        "Google: Gemma 3 27B",
        "Open weights, 140 languages; reads text and images.",
        131_072,
        "2025-03-12",
        "2024-08",
        ("text", "image"),
    ),
    Model(
        "baai/bge-m3",
        "BAAI: BGE-M3",
        "Open weights, vectors of text in a hundred languages.",
        8_192,
        "2024-01-27",
        output_modalities=("embeddings",),
    ),
)

# The two that go down in turns: at any moment one of them is down, and within 16 minutes they change over.
_TURN = 24 * _MINUTE

# Tern, Ember and Marlow are behind one upstream; all others are unrelated.
PROVIDERS = (
    SimProvider("northwind", "Northwind (simulated)", "fast, dear, hardly ever ill", dialect="openai-responses"),
    SimProvider(
        "halcyon",
        "Halcyon (simulated)",
        "steady, in the middle of everything; hides its reasoning",
        loopback=2,
        dialect="gemini",
    ),
    SimProvider(
        "borealis",
        "Borealis (simulated)",
        "cheap and slow, worse by day; three hours out now and then",
        cycles=(Cycle(Fault.OVERLOADED_503, 13 * _DAY, 3 * _HOUR, wandering=True, share=0.97),),
        loopback=3,
        dialect="bedrock",
    ),
    SimProvider(
        "quillstone",
        "Quillstone (simulated)",
        "two regions, each with troubles of its own",
        loopback=4,
        dialect="azure-openai",
    ),
    SimProvider("tern", "Tern (simulated)", "flaky: every way in which a stream can break", loopback=5),
    SimProvider(
        "sirocco",
        "Sirocco (simulated)",
        "very fast and very popular: throttles by day",
        concurrency=4,
        loopback=6,
        dialect="mistral",
    ),
    SimProvider(
        "lanternfish",
        "Lanternfish (simulated)",
        "one machine under a desk: off for 8 minutes in every 24",
        own_door=True,
        cycles=(Cycle(Fault.REFUSED, _TURN, 8 * _MINUTE),),
        loopback=7,
        dialect="ollama",
    ),
    SimProvider("ember", "Ember (simulated)", "overloaded two thirds of the time", loopback=5, dialect="anthropic"),
    SimProvider(
        "marlow", "Marlow (simulated)", "cheapest, odd on the wire, and not always the model it says", loopback=5
    ),
    SimProvider(
        "atoll",
        "Atoll (simulated)",
        "our own troubles: a bad key, a spent quota, a wrong name",
        loopback=8,
        dialect="cohere",
    ),
)

_FULL = ("temperature", "top_p", "max_tokens", "stop", "seed", "tools", "tool_choice", "response_format")
_PLAIN = ("temperature", "top_p", "max_tokens", "stop")
_TOOLS = (*_PLAIN, "tools", "tool_choice", "response_format")
_REASONING = ("temperature", "top_p", "max_tokens", "stop", "include_reasoning", "reasoning")

# Rare troubles that everybody has: about one request in 700.
_RARE = {
    Fault.SERVER_ERROR_500: 0.0004,
    Fault.RESET: 0.0002,
    Fault.OVERLOADED_503: 0.0003,
    Fault.RATE_LIMITED_429: 0.0006,
    Fault.LATE_FIRST_TOKEN: 0.0005,
}
_FLAKY = {
    Fault.RESET: 0.012,
    Fault.TRUNCATED: 0.010,
    Fault.TRUNCATED_MID_CHUNK: 0.004,
    Fault.STALL: 0.006,
    Fault.ERROR_IN_STREAM: 0.012,
    Fault.ERROR_FINISH: 0.006,
    Fault.EMPTY_ANSWER: 0.010,
    Fault.EMPTY_BODY: 0.002,
    Fault.MALFORMED_JSON: 0.006,
    Fault.SLOW_FIRST_TOKEN: 0.004,
    Fault.KEEP_ALIVE_FOREVER: 0.004,
    Fault.SERVER_ERROR_500: 0.015,
    Fault.GATEWAY_TIMEOUT_504: 0.004,
    Fault.OVERLOADED_IN_STREAM: 0.006,
    Fault.CLOSE_BEFORE_STATUS: 0.004,
    Fault.HTML_PAGE: 0.002,
    Fault.LATE_FIRST_TOKEN: 0.010,
}
_ODD = {
    Fault.CRLF: 0.04,
    Fault.GZIP: 0.02,
    Fault.MISSING_USAGE: 0.06,
    Fault.WRONG_CONTENT_TYPE: 0.02,
    Fault.WHOLE_ANSWER: 0.01,
    Fault.HELD_OPEN: 0.005,
    Fault.TRAILING_GARBAGE: 0.01,
    Fault.HUGE_LINE: 0.001,
    Fault.CONTENT_FILTER: 0.01,
    Fault.REFUSAL: 0.004,
}


# Whatever else can go wrong on the wire, each about once in a thousand requests: nothing is only for tests.
_CURIOUS = dict.fromkeys(sorted(set(Fault) - {*_RARE, *_FLAKY, *_ODD, Fault.REFUSED, Fault.AUTH_401, Fault.QUOTA_429,
                                       Fault.MODEL_404, Fault.NO_CAPACITY_498}), 0.001)  # fmt: skip


def _sleepy(profile: Profile) -> Profile:
    return replace(profile, load_gain=1.4, tail_share=0.03, ttft_spread=0.35)


def _endpoint(
    model: str,
    tag: str,
    price: Price,
    profile: Profile,
    quantization: str | None,
    most_tokens: int | None = None,
    parameters: tuple[str, ...] = _FULL,
    response_model: str | None = None,
    kinds: tuple[str, ...] = (),
) -> SimEndpoint:
    provider, _, suffix = tag.partition("/")
    short = model.partition("/")[2]
    upstream = f"{suffix}.{short}" if suffix else short
    return SimEndpoint(
        model, provider, suffix, upstream, price, profile, quantization, most_tokens, parameters, response_model, kinds
    )


_GPT, _HAIKU, _LLAMA, _R1, _QWEN, _MISTRAL, _GEMMA, _BGE = (model.slug for model in MODELS)
_P = Profile

ENDPOINTS = (
    _endpoint(_GPT, "northwind", Price(0.165, 0.66, 0.083), _P(0.34, 96, rates=_RARE), None, 16_384,
              response_model="gpt-4o-mini-2024-07-18", kinds=("long", "vision", "tools", "json", "cache")),
    _endpoint(_GPT, "quillstone/us-east", Price(0.15, 0.60, 0.075),
              _P(0.42, 84, rates=_RARE, tokens_per_chunk=2, peak_hour=18), None, 16_384,
              kinds=("long", "vision", "tools", "json", "cache")),
    _endpoint(_GPT, "quillstone/eu-west", Price(0.165, 0.66, 0.0825),
              _P(0.49, 78, rates=_RARE, tokens_per_chunk=2, peak_hour=11,
                 cycles=(Cycle(Fault.SERVER_ERROR_500, 11 * _DAY, 3 * _HOUR, wandering=True, share=0.9),)),
              None, 16_384),
    _endpoint(_GPT, "halcyon", Price(0.15, 0.60, 0.075), _P(0.55, 70, rates=_RARE), None, 16_384,
              kinds=("long", "vision", "tools", "json", "cache")),
    _endpoint(_GPT, "atoll", Price(0.14, 0.58), _P(0.60, 70, cycles=(always(Fault.AUTH_401),)), None, 16_384),

    _endpoint(_HAIKU, "northwind", Price(0.80, 4.00, 0.08, 1.00), _P(0.48, 74, rates=_RARE), None, 8_192,
              kinds=("tools", "cache")),
    _endpoint(_HAIKU, "quillstone/us-east", Price(0.80, 4.00, 0.08, 1.00),
              _P(0.62, 66, rates=_RARE, tokens_per_chunk=3, peak_hour=18), None, 8_192),
    _endpoint(_HAIKU, "halcyon", Price(0.88, 4.40, 0.09, 1.10), _P(0.70, 61, rates=_RARE), None, 8_192),
    _endpoint(_HAIKU, "atoll", Price(0.78, 3.90), _P(0.70, 60, cycles=(always(Fault.QUOTA_429),)), None, 8_192,
              kinds=("tools",)),

    _endpoint(_LLAMA, "sirocco", Price(0.59, 0.79),
              _P(0.17, 285, tokens_per_chunk=4,
                 rates=_RARE | {Fault.RATE_LIMITED_429: 0.06, Fault.NO_CAPACITY_498: 0.02}), "fp8", 32_768,
              kinds=("long", "tools", "json")),
    _endpoint(_LLAMA, "northwind", Price(0.88, 0.88), _P(0.29, 142, rates=_RARE, tokens_per_chunk=2), "bf16", 8_192),
    _endpoint(_LLAMA, "halcyon", Price(0.60, 0.75), _P(0.45, 81, rates=_RARE), "fp8", 16_384),
    _endpoint(_LLAMA, "borealis", Price(0.12, 0.30), _sleepy(_P(0.95, 34, rates=_RARE)), "fp8", 8_192, _TOOLS,
              kinds=("long", "tools", "json", "cache")),
    _endpoint(_LLAMA, "tern", Price(0.23, 0.40), _P(0.52, 66, rates=_FLAKY), "fp8", 8_192, _TOOLS,
              kinds=("long", "tools", "json")),
    _endpoint(_LLAMA, "marlow", Price(0.09, 0.20), _P(0.66, 58, rates=_ODD, wrong_answers=0.18),
              "int4", 4_096, _TOOLS, kinds=("tools", "json")),
    _endpoint(_LLAMA, "lanternfish", Price(0.10, 0.25), _P(0.80, 37, rates=_RARE), "fp8", 4_096, _TOOLS,
              kinds=("tools", "json")),
    _endpoint(_LLAMA, "ember", Price(0.11, 0.28),
              _P(0.90, 48, load_gain=0.8, rates=_RARE,
                 cycles=(Cycle(Fault.OVERLOADED_503, _TURN, 16 * _MINUTE, offset_seconds=8 * _MINUTE, share=0.98),)),
              "fp8", 8_192, _TOOLS, kinds=("long", "tools", "cache")),

    _endpoint(_R1, "northwind", Price(3.00, 7.00),
              _P(0.62, 88, reasoning="visible", reasoning_tokens=26, answer_tokens=24, rates=_RARE, tokens_per_chunk=2),
              "fp8", 32_768, _REASONING),
    _endpoint(_R1, "halcyon", Price(2.20, 5.40),
              _P(0.74, 72, reasoning="hidden", reasoning_tokens=28, answer_tokens=24, rates=_RARE),
              "fp8", 32_768, _REASONING),
    _endpoint(_R1, "borealis", Price(0.50, 2.18),
              _sleepy(_P(1.25, 31, reasoning="visible", reasoning_tokens=36, answer_tokens=24, rates=_RARE,
                 reasoning_field="reasoning")), "fp8", 16_384, _REASONING),
    _endpoint(_R1, "tern", Price(0.75, 2.40),
              _P(0.88, 45, reasoning="visible", reasoning_tokens=30, answer_tokens=24, rates=_FLAKY),
              "fp8", 16_384, _REASONING),

    _endpoint(_QWEN, "halcyon", Price(0.35, 0.40), _P(0.50, 68, rates=_RARE), "bf16", 8_192),
    _endpoint(_QWEN, "borealis", Price(0.12, 0.39), _sleepy(_P(1.05, 30, rates=_RARE)), "fp8", 8_192, _PLAIN),
    _endpoint(_QWEN, "marlow", Price(0.07, 0.26), _P(0.75, 52, rates=_ODD | _CURIOUS), "int4", 4_096, _PLAIN),
    # On the list for five days of eight: an endpoint that comes and goes.
    _endpoint(_QWEN, "tern", Price(0.13, 0.40),
              _P(0.60, 55, rates=_RARE, cycles=(Cycle(Fault.MODEL_404, 8 * _DAY, 3 * _DAY, wandering=True),)),
              "fp8", 8_192, _PLAIN),

    _endpoint(_MISTRAL, "northwind", Price(0.10, 0.30), _P(0.26, 155, rates=_RARE, tokens_per_chunk=2), None, 32_768),
    _endpoint(_MISTRAL, "sirocco", Price(0.09, 0.28),
              _P(0.15, 300, tokens_per_chunk=4, rates=_RARE | {Fault.RATE_LIMITED_429: 0.75}), "fp8", 32_768),
    _endpoint(_MISTRAL, "lanternfish", Price(0.04, 0.12), _P(0.70, 44, rates=_RARE), "fp8", 8_192, _PLAIN),

    _endpoint(_GEMMA, "northwind", Price(0.12, 0.25), _P(0.31, 110, rates=_RARE), "bf16", 8_192),
    _endpoint(_GEMMA, "borealis", Price(0.09, 0.17), _sleepy(_P(0.85, 36, rates=_RARE)), "fp8", 8_192, _PLAIN),
    _endpoint(_GEMMA, "atoll", Price(0.10, 0.20), _P(0.60, 50, cycles=(always(Fault.MODEL_404),)), "bf16", 8_192),

    _endpoint(_BGE, "tern", Price(0.013), _P(0.14, 200, rates=_RARE), "fp16", parameters=(), kinds=("embeddings",)),
    _endpoint(_BGE, "marlow", Price(0.01), _P(0.22, 200, rates=_RARE), "fp16", parameters=(), kinds=("embeddings",)),
    _endpoint(_BGE, "lanternfish", Price(0.01), _P(0.30, 200, rates=_RARE), "fp16", parameters=(),
              kinds=("embeddings",)),
)  # fmt: skip

# The monitor's own troubles in its made-up past: its line was down, and it was not running.
_OFFLINE = Cycle(Fault.REFUSED, 9 * _DAY, 12 * _MINUTE, wandering=True)
_STOPPED = Cycle(Fault.REFUSED, 12 * _DAY, 9 * _MINUTE, wandering=True)


def default_fleet(seed: int = 1) -> Fleet:
    """The fleet of `monitor simulate` and `monitor demo`. The seed moves each endpoint's times by up to 15 % and
    decides everything that happens to it; who is there, what it costs and what is wrong with it stays."""
    endpoints = tuple(replace(endpoint, profile=_moved(seed, endpoint)) for endpoint in ENDPOINTS)
    return fleet_of(seed, PROVIDERS, MODELS, endpoints, offline=_OFFLINE, stopped=_STOPPED)


def _moved(seed: int, endpoint: SimEndpoint) -> Profile:
    draws = Draws(key_of(seed, "character", endpoint.id), np.zeros(1, dtype=np.int64))
    first, speed = (float(0.85 + 0.3 * draws.uniform(lane)[0]) for lane in (0, 1))
    profile = endpoint.profile
    return replace(
        profile, ttft_seconds=profile.ttft_seconds * first, tokens_per_second=profile.tokens_per_second * speed
    )
