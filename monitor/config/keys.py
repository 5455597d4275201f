"""Every key of monitor.yaml: how it is written, what is allowed, what stands in for it. docs/configuration.md is held
against these tables. The keys that API dialects add to a provider and an endpoint are made by `dialect_keys`.

Readers give plain values under the dataclasses' names; `monitor.settings` and `monitor.catalog.build` freeze them.
"""

from __future__ import annotations

from collections.abc import Iterator

from monitor.config import addresses
from monitor.config import values as v
from monitor.config.document import Mapping
from monitor.config.headers import EXAMPLE as HEADERS_EXAMPLE
from monitor.config.headers import headers
from monitor.config.probes import DEFAULTS as PROBES
from monitor.config.probes import EXAMPLE as PROBES_EXAMPLE
from monitor.config.probes import wanted_probes
from monitor.config.reading import AlreadyTold, Fields, Key, Keys, Value, each, fields
from monitor.outcome import POLICIES

WINDOWS = ("5m", "30m", "1d", "7d", "30d")
# OpenRouter's own words for them: its API is answered field for field.
QUANTIZATIONS = ("int4", "int8", "fp4", "mxfp4", "nvfp4", "fp6", "fp8", "mxfp8", "fp16", "bf16", "fp32", "unknown")
INPUT_MODALITIES = ("text", "image", "file", "audio", "video")
OUTPUT_MODALITIES = ("text", "image", "embeddings", "audio", "video", "rerank", "speech", "transcription")
_BODY_OF_THE_PROBE = ("model", "messages", "stream", "stream_options")

_MOST_OUTCOMES = 50
_MOST_TOKENS = 65_536
_MOST_CONTEXT = 1_000_000_000
_MOST_IN_FLIGHT = 65_535
_MOST_USD = 1_000_000
_LONGEST_TIMEOUT = "1h"  # latencies are kept up to an hour
_LONGEST_RETENTION = "36500d"
_WHY_MONTH = "the 30d window is restored from it, and its edge moves by the hour"
# The hour under way and one being closed are not rolled up yet, and the 30m window reaches half an hour back.
_LEAST_RAW = "2h"
_WHY_RAW = "the 5m and 30m windows and the hours not rolled up yet are restored from it"

_interval = v.duration("1s", "1d", whole_milliseconds=True)
_timeout = v.duration("100ms", _LONGEST_TIMEOUT)
_price = v.number(0, _MOST_USD)


def _section(name: str, keys: Keys) -> Key:
    return Key(name, fields(keys), keys.example, inside=(".", keys))


STATE = Keys(
    (
        Key("down", v.m_of_n(_MOST_OUTCOMES), "down: 3 of 4", "3 of 4"),
        Key("up", v.m_of_n(_MOST_OUTCOMES), "up: 2 of 2", "2 of 2"),
        Key("recheck", v.duration("100ms", "10m"), "recheck: 3s", "3s", field="recheck_seconds"),
        Key("forget", v.intervals(10_000), "forget: 10 intervals", "10 intervals", field="forget_intervals"),
    ),
    "state: {down: 3 of 4, up: 2 of 2}",
)

EXPORT = Keys(
    (
        Key("windows", v.list_of(v.one_of(WINDOWS), "window"), "windows: [1d, 30d]", "[5m, 30m, 1d, 7d, 30d]"),
        Key(
            "performance_windows",
            v.list_of(v.one_of(WINDOWS), "window"),
            "performance_windows: [30m, 30d]",
            "[30m, 30d]",
        ),
        Key(
            "quantiles",
            # Labels are written with six digits: two that agree in them would make one series twice.
            v.list_of(v.number(0, 1, open_ends=True, decimals=6), "quantile"),
            "quantiles: [0.5, 0.9, 0.99]",
            "[0.5, 0.9, 0.99]",
        ),
    ),
    "export: {windows: [1d, 30d], quantiles: [0.5, 0.99]}",
)

BUDGET = Keys(
    (
        Key(
            "usd_per_day",
            v.number(0, _MOST_USD, open_ends=True),
            "usd_per_day: 20",
            required=True,
            field="budget_usd_per_day",
        ),
    ),
    "budget: {usd_per_day: 20}",
)


PROBING = Keys(
    (
        Key("interval", _interval, "interval: 60s", "60s", field="interval_seconds"),
        Key("connect_timeout", _timeout, "connect_timeout: 10s", "10s", field="connect_timeout_seconds"),
        Key("timeout", _timeout, "timeout: 60s", "60s", field="timeout_seconds"),
        Key("first_token_timeout", _timeout, "first_token_timeout: 20s", "20s", field="first_token_timeout_seconds"),
        Key("idle_timeout", _timeout, "idle_timeout: 15s", "15s", field="idle_timeout_seconds"),
        Key("max_tokens", v.whole_number(1, _MOST_TOKENS), "max_tokens: 64", "64"),
        Key("connection", v.one_of(("fresh", "reuse")), "connection: fresh", "fresh"),
        Key("concurrency", v.whole_number(1, _MOST_IN_FLIGHT), "concurrency: 512", "512"),
        _section("budget", BUDGET),
        _section("probes", PROBES),
        Key("canaries", v.list_of(addresses.canary, "canary"), "canaries: [one.one.one.one:443]"),
    ),
    "probing: {interval: 60s, timeout: 60s}",
)

RETENTION = Keys(
    (
        Key(
            "observations",
            v.duration(_LEAST_RAW, _LONGEST_RETENTION, _WHY_RAW),
            "observations: 7d",
            "7d",
            field="observations_seconds",
        ),
        Key("hourly", v.duration("31d", _LONGEST_RETENTION, _WHY_MONTH), "hourly: 35d", "35d", field="hourly_seconds"),
        Key("daily", v.duration("31d", _LONGEST_RETENTION, _WHY_MONTH), "daily: 400d", "400d", field="daily_seconds"),
    ),
    "retention: {observations: 7d, hourly: 35d, daily: 400d}",
)

_DATABASE_EXAMPLE = "database: sqlite:///monitor.db"
_SERVER_EXAMPLE = "database: {url: postgresql://monitor@db.example/monitor, password: {env: DB_PASSWORD}}"

DATABASE = Keys(
    (
        Key(
            "url",
            addresses.database_url,
            "url: postgresql://monitor@db.example/monitor",
            "sqlite:///monitor.db",
            required=True,
            hidden=True,
        ),
        Key("password", v.secret, "password: {env: DB_PASSWORD}", hidden=True),
        Key("spill", v.line_of_text(1000), "spill: /var/lib/monitor/monitor.spill"),
    ),
    _SERVER_EXAMPLE,
)


def _database(value: Value) -> dict[str, object]:
    """The fields of DatabaseSettings, from the short form or from the long one."""
    if not isinstance(value.node, Mapping):
        return {"url": addresses.database_url(value)}
    given = fields(DATABASE)(value)
    if "url" not in given.values:
        raise AlreadyTold
    if str(given.values["url"]).startswith("sqlite:"):
        if "password" in given.values:
            given.tell("password", "SQLite has no password: take it away", _DATABASE_EXAMPLE)
        if "spill" in given.values:
            given.tell("spill", "SQLite spills beside its file: take it away", _DATABASE_EXAMPLE)
    return dict(given.values)


PRICE = Keys(
    tuple(
        Key(kind, _price, f"{kind}: {example}")
        for kind, example in (
            ("input", "0.15"),
            ("output", "0.60"),
            ("cache_read", "0.075"),
            ("cache_write", "0.30"),
        )
    ),
    "price: {input: 0.15, output: 0.60}",
)

QUIRKS = Keys(
    (
        Key("include_usage", v.boolean, "include_usage: false", "true"),
        Key("max_tokens_field", v.field_name, "max_tokens_field: max_completion_tokens", "max_tokens"),
        Key("min_max_tokens", v.whole_number(1, _MOST_TOKENS), "min_max_tokens: 16", "1"),
        Key("temperature", v.boolean, "temperature: false", "true"),
        Key("json_schema", v.boolean, "json_schema: false", "true"),
        Key("reasoning_off", v.request_fields(_BODY_OF_THE_PROBE), "reasoning_off: {reasoning_effort: none}", "{}"),
        Key("extra_body", v.request_fields(_BODY_OF_THE_PROBE), "extra_body: {provider: {only: [azure]}}", "{}"),
        Key("expect_done", v.boolean, "expect_done: true", "false"),
    ),
    "quirks: {include_usage: false}",
)

PROVIDER = Keys(
    (
        Key("name", v.line_of_text(100), "name: Acme Cloud"),
        Key("provider", v.slug("a known provider's slug"), "provider: groq"),
        Key("dialect", v.slug("a dialect"), "dialect: openai-chat"),
        Key("base_url", addresses.base_url, "base_url: https://api.acme.example/v1", hidden=True),
        Key("api_key", v.secret, "api_key: {env: ACME_API_KEY}", hidden=True),
        Key("headers", headers, HEADERS_EXAMPLE, "{}", hidden=True),
        Key("concurrency", v.whole_number(1, _MOST_IN_FLIGHT), "concurrency: 8"),
        Key("interval", _interval, "interval: 60s", field="interval_seconds"),
        _section("quirks", QUIRKS),
    ),
    "acme: {dialect: openai-chat, base_url: https://api.acme.example/v1, api_key: {env: ACME_API_KEY}}",
    takes_options=True,
)

ENDPOINT = Keys(
    (
        Key("provider", v.slug("a provider's slug"), "provider: acme", required=True),
        Key("upstream", v.line_of_text(500), "upstream: gpt-4o-mini", required=True),
        Key("suffix", v.slug("a suffix"), "suffix: us-east"),
        Key("base_url", addresses.base_url, "base_url: https://us-east.acme.example/v1", hidden=True),
        Key("api_key", v.secret, "api_key: {env: ACME_US_EAST_API_KEY}", hidden=True),
        Key("interval", _interval, "interval: 5m", field="interval_seconds"),
        Key("max_completion_tokens", v.whole_number(1, _MOST_CONTEXT), "max_completion_tokens: 16384"),
        Key("supported_parameters", v.list_of(v.field_name, "parameter"), "supported_parameters: [max_tokens, tools]"),
        Key("probes", wanted_probes, "probes: [long, cache]"),
        _section("price", PRICE),
        Key("quantization", v.one_of(QUANTIZATIONS), "quantization: bf16"),
        _section("quirks", QUIRKS),
    ),
    "{provider: acme, upstream: gpt-4o-mini}",
    takes_options=True,
)


def _endpoints(value: Value) -> tuple[Fields, ...]:
    return v.list_of(fields(ENDPOINT), "endpoint", once=False)(value)


MODEL = Keys(
    (
        Key("name", v.line_of_text(200), 'name: "OpenAI: GPT-4o-mini"'),
        Key("description", v.lines_of_text(10_000), "description: small and cheap"),
        Key("context_length", v.whole_number(1, _MOST_CONTEXT), "context_length: 128000"),
        Key("released", v.day, "released: 2024-07-18"),
        Key("knowledge_cutoff", v.month, "knowledge_cutoff: 2023-10"),
        Key(
            "input_modalities",
            v.list_of(v.one_of(INPUT_MODALITIES), "modality"),
            "input_modalities: [text, image]",
            "[text]",
        ),
        Key(
            "output_modalities",
            v.list_of(v.one_of(OUTPUT_MODALITIES), "modality"),
            "output_modalities: [text]",
            "[text]",
        ),
        Key("interval", _interval, "interval: 5m", field="interval_seconds"),
        Key("probes", wanted_probes, PROBES_EXAMPLE),
        Key(
            "endpoints",
            _endpoints,
            "endpoints: [{provider: acme, upstream: gpt-4o-mini}]",
            required=True,
            inside=("[].", ENDPOINT),
        ),
    ),
    "openai/gpt-4o-mini: {endpoints: [{provider: acme, upstream: gpt-4o-mini}]}",
)

_A_PROVIDER = "providers: {acme: {dialect: openai-chat, base_url: https://api.acme.example/v1}}"
_A_MODEL = "models: {openai/gpt-4o-mini: {endpoints: [{provider: acme, upstream: gpt-4o-mini}]}}"

TOP = Keys(
    (
        Key("listen", addresses.host_and_port, "listen: 127.0.0.1:9469", "127.0.0.1:9469"),
        Key("database", _database, _DATABASE_EXAMPLE, "sqlite:///monitor.db", hidden=True, inside=(".", DATABASE)),
        Key("location", v.slug("a location"), "location: fra1", "local"),
        Key("uptime_policy", v.one_of(tuple(POLICIES)), "uptime_policy: monitor", "monitor"),
        _section("state", STATE),
        _section("export", EXPORT),
        _section("probing", PROBING),
        _section("retention", RETENTION),
        Key(
            "providers",
            each(v.wrong_provider_slug, fields(PROVIDER), PROVIDER.example, "names no provider"),
            _A_PROVIDER,
            inside=(".<slug>.", PROVIDER),
        ),
        Key(
            "models",
            each(v.wrong_model_slug, fields(MODEL), MODEL.example, "names no model"),
            _A_MODEL,
            required=True,
            inside=(".<slug>.", MODEL),
        ),
    ),
    _A_PROVIDER,
)


def all_keys(keys: Keys = TOP, before: str = "") -> Iterator[tuple[str, Key]]:
    """Every key with its place, `models.<slug>.endpoints[].price.input`, in the tables' order."""
    for key in keys.keys:
        yield before + key.name, key
        if key.inside is not None:
            between, inner = key.inside
            yield from all_keys(inner, before + key.name + between)
