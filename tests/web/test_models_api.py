"""GET /api/v1/models, providers: OpenRouter's shapes, field for field."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from web_stage import HERE, LLAMA, MINI, MINI_ACME, NOW, Stage, endpoint, probe, settings_of, stage

from monitor.outcome import Outcome
from monitor.web.openrouter import price_text

# Section 3.1 of OpenRouter's PublicEndpoint: every field that its own example shows.
OPENROUTER_ENDPOINT = {
    "name",
    "model_id",
    "model_name",
    "context_length",
    "pricing",
    "provider_name",
    "tag",
    "quantization",
    "max_completion_tokens",
    "max_prompt_tokens",
    "supported_parameters",
    "status",
    "uptime_last_5m",
    "uptime_last_30m",
    "uptime_last_1d",
    "supports_implicit_caching",
    "supports_voice_cloning",
    "supports_image_reference",
    "supports_multiple_audio_references",
    "supports_tool_choice",
    "native_tools",
    "latency_last_30m",
    "throughput_last_30m",
    "perf_last_30m_by_workload",
}
OURS = {
    "endpoint",
    "uptime_last_7d",
    "uptime_last_30d",
    "samples",
    "coverage",
    "state",
    "cause",
    "state_since",
    "usable",
    "unusable_cause",
    "interval_seconds",
    "observed_at",
    "kinds",
    "location_suspect",
    "locations",
}
OPENROUTER_MODEL = {
    "id",
    "canonical_slug",
    "name",
    "created",
    "description",
    "pricing",
    "context_length",
    "architecture",
    "top_provider",
    "per_request_limits",
    "supported_parameters",
    "default_parameters",
    "supported_voices",
    "links",
    "knowledge_cutoff",
}
WINDOWS = ["5m", "30m", "1d", "7d", "30d"]


async def endpoints_of(web: Stage, slug: str = "openai/gpt-4o-mini", query: str = "") -> dict[str, Any]:
    found = await web.json(f"/api/v1/models/{slug}/endpoints{query}")
    return {one["tag"]: one for one in found["data"]["endpoints"]}


async def test_an_endpoint_has_every_field_of_openrouters_and_ours(web: Stage) -> None:
    for one in (await endpoints_of(web)).values():
        assert set(one) == OPENROUTER_ENDPOINT | OURS


async def test_the_model_around_its_endpoints_is_described_as_openrouter_does(web: Stage) -> None:
    data = (await web.json("/api/v1/models/openai/gpt-4o-mini/endpoints"))["data"]
    del data["endpoints"]
    assert data == {
        "id": "openai/gpt-4o-mini",
        "name": "OpenAI: GPT-4o-mini",
        "created": 1721260800,
        "description": "small and cheap",
        "architecture": {
            "modality": "text+image->text",
            "input_modalities": ["text", "image"],
            "output_modalities": ["text"],
            "tokenizer": None,
            "instruct_type": None,
        },
        "location": None,
    }


async def test_an_endpoint_that_was_never_probed_is_all_null(web: Stage) -> None:
    one = (await endpoints_of(web))["azure/us-east"]
    assert (one["state"], one["status"], one["usable"], one["observed_at"]) == ("unknown", None, True, None)
    for name in ("5m", "30m", "1d", "7d", "30d"):
        assert one[f"uptime_last_{name}"] is None
    assert one["samples"] == dict.fromkeys(WINDOWS, 0)
    assert one["coverage"] == dict.fromkeys(WINDOWS, 0.0)
    assert one["latency_last_30m"] is one["throughput_last_30m"] is one["perf_last_30m_by_workload"] is None


async def test_configured_facts_are_shown_and_unknown_ones_are_null(web: Stage) -> None:
    found = await endpoints_of(web)
    one = found["azure/us-east"]
    assert one["name"] == "Azure | openai/gpt-4o-mini"
    assert (one["model_id"], one["model_name"]) == ("openai/gpt-4o-mini", "OpenAI: GPT-4o-mini")
    assert one["pricing"] == {
        "prompt": "0.00000015",
        "completion": "0.0000006",
        "input_cache_read": "0.000000075",
        "discount": 0,
    }
    assert (one["quantization"], one["max_completion_tokens"], one["context_length"]) == ("bf16", 16384, 128000)
    assert one["supported_parameters"] == ["temperature", "max_tokens"]
    assert one["endpoint"] == MINI.id
    other = found["acme"]
    assert (other["quantization"], other["max_completion_tokens"], other["max_prompt_tokens"]) == (None, None, None)
    bare = (await endpoints_of(web, LLAMA.model))["acme"]
    assert bare["pricing"] == {"prompt": None, "completion": None, "discount": 0}


async def test_latency_is_ttft_in_milliseconds_and_throughput_percentiles_are_on_the_slow_side(web: Stage) -> None:
    await web.feed(
        probe(MINI, NOW - 10 * n, ttft_seconds=n / 100, latency_seconds=60.0, throughput_tokens_per_second=float(n))
        for n in range(1, 101)
    )
    one = (await endpoints_of(web))["azure/us-east"]
    assert one["latency_last_30m"] == {"p50": 500, "p75": 750, "p90": 900, "p99": 990}
    assert one["throughput_last_30m"] == {"p50": 50, "p75": 25, "p90": 10, "p99": 1}
    assert one["perf_last_30m_by_workload"] == {
        "text_generation": {
            "request_count": 100,
            "latency": one["latency_last_30m"],
            "throughput": one["throughput_last_30m"],
        }
    }


async def test_uptimes_are_percentages_floored_to_two_decimals_with_their_samples(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - n) for n in range(1, 30)] + [probe(MINI, NOW - 200, Outcome.RESET)])
    await web.feed([probe(MINI, NOW - 40_000 - n) for n in range(20_000)])
    one = (await endpoints_of(web))["azure/us-east"]
    assert one["uptime_last_5m"] == one["uptime_last_30m"] == 96.66
    assert one["uptime_last_1d"] == one["uptime_last_7d"] == one["uptime_last_30d"] == 99.99
    assert one["samples"] == {"5m": 30, "30m": 30, "1d": 20030, "7d": 20030, "30d": 20030}
    assert one["coverage"]["5m"] == 1.0
    assert one["observed_at"] == "2023-11-14T22:13:19.000Z"


@pytest.mark.parametrize(
    ("outcomes", "status", "state", "cause"),
    [
        ([Outcome.SUCCESS], 0, "operational", None),
        ([Outcome.RATE_LIMITED] * 4, -1, "degraded", "throttled"),
        ([Outcome.OVERLOADED] * 4, -5, "down", "overloaded"),
        ([Outcome.SUCCESS, Outcome.AUTH], -10, "operational", None),
    ],
)
async def test_status_is_an_integer_and_negative_when_not_well(
    web: Stage, outcomes: list[Outcome], status: int, state: str, cause: str | None
) -> None:
    await web.feed(probe(MINI, NOW - 100 + n, outcome) for n, outcome in enumerate(outcomes))
    one = (await endpoints_of(web))["azure/us-east"]
    assert (one["status"], one["state"], one["cause"]) == (status, state, cause)
    assert one["usable"] is (status != -10)
    assert one["unusable_cause"] == ("auth" if status == -10 else None)


async def test_figures_are_pooled_over_locations_unless_one_is_named(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60 * n, ttft_seconds=0.1) for n in range(1, 4)])
    await web.feed(
        [probe(MINI, NOW - 60 * n, Outcome.RESET, location="iad") for n in range(1, 5)]
        + [probe(MINI, NOW - 600, location="iad", ttft_seconds=0.9)],
        foreign=True,
    )
    one = (await endpoints_of(web))["azure/us-east"]
    assert (one["uptime_last_30m"], one["samples"]["30m"]) == (50.0, 8)
    assert one["latency_last_30m"] == {"p50": 100, "p75": 100, "p90": 900, "p99": 900}
    assert (one["state"], one["cause"]) == ("degraded", "partial")
    assert one["locations"] == {HERE: "operational", "iad": "down"}
    here = (await endpoints_of(web, query=f"?location={HERE}"))["azure/us-east"]
    assert (here["uptime_last_30m"], here["samples"]["30m"], here["state"]) == (100.0, 3, "operational")
    there = (await endpoints_of(web, query="?location=iad"))["azure/us-east"]
    assert (there["uptime_last_30m"], there["state"]) == (20.0, "down")


async def test_a_model_has_openrouters_fields_and_sums_up_its_endpoints(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60 * n) for n in range(1, 4)])
    await web.feed([probe(MINI_ACME, NOW - 10, Outcome.AUTH)])
    listed = await web.json("/api/v1/models")
    assert (listed["total_count"], listed["links"]) == (2, {"next": None})
    mini, llama = listed["data"]
    assert set(mini) > OPENROUTER_MODEL
    assert mini["pricing"] == {"prompt": "0.0000001", "completion": "0.0000004", "discount": 0}
    assert mini["top_provider"] == {"context_length": 128000, "max_completion_tokens": 16384, "is_moderated": False}
    assert mini["supported_parameters"] == ["temperature", "max_tokens", "stop"]
    assert mini["links"] == {"details": "/api/v1/models/openai/gpt-4o-mini/endpoints"}
    assert mini["states"] == {"unknown": 1, "operational": 1, "degraded": 0, "down": 0}
    assert (mini["endpoint_count"], mini["usable_count"]) == (2, 1)
    assert (mini["uptime_last_30d"], mini["samples_last_30d"]) == (100.0, 3)
    assert (llama["created"], llama["uptime_last_30d"], llama["samples_last_30d"]) == (None, None, 0)
    assert (await web.json("/api/v1/models/openai/gpt-4o-mini"))["data"] == mini


async def test_models_come_in_pages_when_asked_for() -> None:
    async with stage(settings_of(*(endpoint(f"a/m{n}", "acme") for n in range(5)))) as web:
        page = await web.json("/api/v1/models?limit=2&offset=1")
        assert [one["id"] for one in page["data"]] == ["a/m1", "a/m2"]
        assert page["total_count"] == 5
        following = await web.json(page["links"]["next"])
        assert [one["id"] for one in following["data"]] == ["a/m3", "a/m4"]
        assert following["links"]["next"] is None
        assert len((await web.json("/api/v1/models?offset=9"))["data"]) == 0
        assert len((await web.json("/api/v1/models"))["data"]) == 5


@pytest.mark.parametrize("path", ["/api/v1/models", "/api/v1/providers", "/api/v1/routing"])
async def test_a_long_list_is_made_in_slices(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [endpoint(f"a/m{number // 4}", f"p{number % 4}") for number in range(3000)]
    async with stage(settings_of(*many)) as web:
        turns = 0
        sleep = web.clock.sleep

        async def counted(seconds: float) -> None:
            nonlocal turns
            turns += seconds == 0
            await sleep(seconds)

        monkeypatch.setattr(web.clock, "sleep", counted)
        found = await web.json(path)
        assert len(found["endpoints" if "routing" in path else "data"]) == {"models": 750, "providers": 4}.get(
            path.rsplit("/", 1)[1], 3000
        )
        assert turns >= 3


async def test_the_next_page_keeps_the_location(web: Stage) -> None:
    page = await web.json(f"/api/v1/models?limit=1&location={HERE}")
    assert page["links"]["next"] == f"/api/v1/models?limit=1&offset=1&location={HERE}"


async def test_providers_are_listed_with_what_they_offer(web: Stage) -> None:
    await web.feed([probe(MINI, NOW - 60)])
    data = (await web.json("/api/v1/providers"))["data"]
    assert [one["slug"] for one in data] == ["azure", "acme"]
    assert data[0] == {
        "name": "Azure",
        "slug": "azure",
        "privacy_policy_url": None,
        "terms_of_service_url": None,
        "status_page_url": None,
        "headquarters": None,
        "datacenters": None,
        "endpoint_count": 1,
        "states": {"unknown": 0, "operational": 1, "degraded": 0, "down": 0},
        "usable_count": 1,
        "uptime_last_30d": 100.0,
        "samples_last_30d": 1,
        "down_at": [],
    }
    assert data[1]["endpoint_count"] == 2


async def test_a_new_endpoint_is_listed_before_the_board_has_a_view_of_it(web: Stage) -> None:
    web.settings = settings_of(MINI, endpoint("new/model", "acme"))
    assert (await endpoints_of(web, "new/model"))["acme"]["state"] == "unknown"
    assert [one["id"] for one in (await web.json("/api/v1/models"))["data"]] == ["openai/gpt-4o-mini", "new/model"]
    assert (await web.json("/api/v1/providers"))["data"][1]["endpoint_count"] == 1


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v1/models/openai/none", 404, "no model 'openai/none': GET /api/v1/models lists them"),
        ("/api/v1/models/openai/none/endpoints", 404, "no model 'openai/none': GET /api/v1/models lists them"),
        ("/api/v1/models?limit=0", 400, "limit: '0' is not a whole number from 1 to 1000"),
        ("/api/v1/models?limit=-1", 400, "limit: '-1' is not a whole number from 1 to 1000"),
        ("/api/v1/models?limit=1001", 400, "limit: '1001' is not a whole number from 1 to 1000"),
        ("/api/v1/models?limit=ten", 400, "write for example limit=500"),
        ("/api/v1/models?offset=1.5", 400, "offset: '1.5' is not a whole number"),
        ("/api/v1/models?sort=newest", 400, "unknown parameter 'sort': this route takes limit, offset, location"),
        ("/api/v1/models?limit=1&limit=2", 400, "parameter 'limit' is given twice: write it once"),
        ("/api/v1/models?location=mars", 400, "location: 'mars' is not one of fra"),
        ("/api/v1/models/openai/gpt-4o-mini?location=mars", 400, "'mars' is not one of fra"),
        ("/api/v1/models/openai/gpt-4o-mini/endpoints?x=1", 400, "unknown parameter 'x': this route takes location"),
        ("/api/v1/providers?location=mars", 400, "'mars' is not one of fra"),
    ],
)
async def test_what_is_asked_wrongly_is_told_what_to_write_instead(
    web: Stage, path: str, status: int, words: str
) -> None:
    assert words in await web.error(path, status)


@settings(deadline=None)
@given(st.decimals(min_value=0, max_value=100_000, places=6, allow_nan=False, allow_infinity=False))
def test_a_price_per_token_is_exact_and_without_exponent(usd: Decimal) -> None:
    text = price_text(float(usd))
    assert text is not None
    assert Decimal(text) == usd / 1_000_000
    assert set(text) <= set("0123456789.") and not text.endswith(".")


@pytest.mark.parametrize(
    ("usd", "text"), [(0.0, "0"), (1.0, "0.000001"), (1e6, "1"), (1e-7, "0.0000000000001"), (None, None)]
)
def test_prices_at_the_edges(usd: float | None, text: str | None) -> None:
    assert price_text(usd) == text
