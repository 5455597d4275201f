"""Each fault as a raw client sees it."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from simulator_stage import FLEET, GPT, NONCE, R1, Heard, chat, chat_bytes, hear, serving

from monitor.outcome import Group, Outcome, group_of
from monitor.simulator.behaviour import script
from monitor.simulator.faults import EXPECTED, EXPECTED_WHEN_NEW, NATURES, Fault, Reach

pytestmark = pytest.mark.timed

DOCS = Path(__file__).parents[2] / "docs"


def good(heard: Heard) -> bool:
    return heard.status == 200 and heard.data[-1] == "[DONE]" and heard.finish in ("stop", "length")


def right(heard: Heard) -> bool:
    return good(heard) and heard.text().startswith(f"{NONCE} 1") and heard.is_whole and heard.ended == "fin"


def role_only_start(heard: Heard) -> bool:
    first = heard.deltas[:5]
    return right(heard) and first[0]["role"] == "assistant" and all(delta["content"] == "" for delta in first)


def reasoning_first(heard: Heard) -> bool:
    kinds = ["reasoning_content" if "reasoning_content" in delta else "content" for delta in heard.deltas[1:-1]]
    counted = (heard.usage or {})["completion_tokens_details"]["reasoning_tokens"]
    return right(heard) and kinds == sorted(kinds, reverse=True) and 0 < counted == kinds.count("reasoning_content")


def hidden_reasoning(heard: Heard) -> bool:
    usage = heard.usage or {}
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    return right(heard) and not heard.text("reasoning_content") and 0 < hidden < usage["completion_tokens"]


def reasoning_cut(heard: Heard) -> bool:
    usage = heard.usage or {}
    is_cut = heard.finish == "length" and not heard.text() and heard.text("reasoning_content") != ""
    return good(heard) and is_cut and usage["completion_tokens"] == 64


def whole_answer(heard: Heard) -> bool:
    choice = heard.json["choices"][0]
    is_whole = "content-type: application/json" in heard.head and heard.json["object"] == "chat.completion"
    return is_whole and choice["message"]["content"].startswith(NONCE) and heard.json["usage"]["completion_tokens"] > 0


def cut_off(ended: str, whole: bool = False) -> Callable[[Heard], bool]:
    def check(heard: Heard) -> bool:
        lines = heard.body.decode().split("\n\n")
        return NONCE in lines[1] and "[DONE]" not in heard.data and heard.is_whole is whole and heard.ended == ended

    return check


def error_inside(code: str, tokens: bool) -> Callable[[Heard], bool]:
    def check(heard: Heard) -> bool:
        error = heard.objects[-1]["error"]
        return heard.status == 200 and error["code"] == code and (heard.text() != "") is tokens and heard.is_whole

    return check


def refused_with(status: int, code: str | None, type_: str) -> Callable[[Heard], bool]:
    def check(heard: Heard) -> bool:
        error = heard.error
        return (heard.status, error["code"], error["type"]) == (status, code, type_) and bool(error["message"])

    return check


def cr_as_lf(heard: Heard) -> Heard:
    begun, _, rest = heard.raw.partition(b"\r\n\r\n")
    return Heard(begun + b"\r\n\r\n" + re.sub(rb"\r(?!\n)", b"\n", rest), heard.ended)


def interim_answers(heard: Heard) -> bool:
    before, found, after = heard.raw.partition(b"HTTP/1.1 200 OK")
    is_before = before.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n")
    return is_before and right(Heard(found + after, heard.ended))


def gzip_bomb(heard: Heard) -> bool:
    packed = b"".join(re.findall(rb"\r\n[0-9a-f]+\r\n(.+?)(?=\r\n[0-9a-f]+\r\n)", b"\r\n" + heard.rest, re.DOTALL))
    unpacked = zlib.decompressobj(31).decompress(packed)
    return "content-encoding: gzip" in heard.head and len(unpacked) > 64 << 20 and len(packed) < 128 << 10


def split_utf8(heard: Heard) -> bool:
    return good(heard) and heard.text().startswith(f"{NONCE} 1 é 2 é")


def retried(header: str) -> Callable[[Heard], bool]:
    def check(heard: Heard) -> bool:
        return refused_with(429, "rate_limit_exceeded", "requests")(heard) and f"\r\n{header}: " in heard.head

    return check


CHECKS: dict[Fault, Callable[[Heard], bool]] = {
    Fault.ROLE_ONLY_START: role_only_start,
    Fault.LATE_FIRST_TOKEN: right,
    Fault.REASONING_FIRST: reasoning_first,
    Fault.HIDDEN_REASONING: hidden_reasoning,
    Fault.REASONING_CUT: reasoning_cut,
    Fault.MISSING_USAGE: lambda heard: right(heard) and heard.usage is None,
    Fault.REFUSAL: lambda heard: good(heard) and heard.text("refusal") != "" and heard.text() == "",
    Fault.WHOLE_ANSWER: whole_answer,
    Fault.GZIP: lambda heard: right(heard) and b"data:" not in heard.rest,
    Fault.WRONG_CONTENT_TYPE: lambda heard: right(heard) and "content-type: text/plain" in heard.head,
    Fault.HELD_OPEN: lambda heard: good(heard) and heard.ended == "open" and not heard.is_whole,
    Fault.DRIBBLE: lambda heard: right(heard) and len(heard.text().split()) <= 9,
    Fault.CRLF: lambda heard: right(heard) and b"\r\ndata: " in heard.body and b"\n\n" not in heard.body,
    Fault.LONE_CR: lambda heard: right(cr_as_lf(heard)) and b"\rdata: " in heard.body and b"\n" not in heard.body,
    Fault.MULTI_LINE: lambda heard: right(heard) and heard.body.count(b"\ndata: ") >= 2 * heard.body.count(b"\n\n") - 2,
    Fault.BOM: lambda heard: right(heard) and heard.body.startswith(b"\xef\xbb\xbfdata:"),
    Fault.SPLIT_UTF8: split_utf8,
    Fault.INTERIM_ANSWERS: interim_answers,
    Fault.CHUNK_EXTENSIONS: lambda heard: (
        good(heard)
        and b';sim;note="an extension"\r\n' in heard.rest
        and heard.rest.endswith(b"x-checksum: none\r\n\r\n")
    ),
    Fault.TOKENS_AFTER_END: lambda heard: heard.body.partition(b"[DONE]\n\n")[2].count(b'" more"') == 40,
    Fault.TRAILING_GARBAGE: lambda heard: heard.body.partition(b"[DONE]\n\n")[2].startswith(b"\x00<eof>"),
    Fault.REFUSED: lambda heard: heard.ended == "rst" and not heard.raw,
    Fault.SILENT: lambda heard: heard.ended == "open" and not heard.raw,
    Fault.CLOSE_BEFORE_STATUS: lambda heard: heard.ended == "fin" and not heard.raw,
    Fault.RESET_BEFORE_STATUS: lambda heard: heard.ended == "rst" and not heard.raw,
    Fault.SLOW_FIRST_TOKEN: lambda heard: len(heard.deltas) == 1 and heard.text() == "" and heard.ended == "open",
    Fault.KEEP_ALIVE_FOREVER: lambda heard: heard.body.count(b": keep-alive\n\n") > 10 and b"data:" not in heard.body,
    Fault.STALL: cut_off("open"),
    Fault.CRAWL: lambda heard: heard.text().startswith(NONCE) and heard.ended == "open",
    Fault.FLOOD: lambda heard: len(heard.raw) > 1 << 20 and heard.ended == "open" and heard.body.count(b" 2 3") == 0,
    Fault.RESET: cut_off("rst"),
    Fault.TRUNCATED: cut_off("fin"),
    Fault.TRUNCATED_MID_CHUNK: cut_off("fin"),
    Fault.ERROR_IN_STREAM: error_inside("internal_error", tokens=True),
    Fault.OVERLOADED_IN_STREAM: error_inside("server_is_overloaded", tokens=False),
    Fault.RATE_LIMIT_IN_STREAM: error_inside("rate_limit_exceeded", tokens=False),
    Fault.ERROR_FINISH: lambda heard: heard.finish == "error" and heard.text() != "",
    Fault.EMPTY_ANSWER: lambda heard: good(heard) and heard.text() == "" and heard.usage["completion_tokens"] == 0,
    Fault.EMPTY_BODY: lambda heard: heard.status == 200 and heard.rest == b"",
    Fault.MALFORMED_JSON: lambda heard: any(text.endswith('{"con') for text in heard.data) and heard.is_whole,
    Fault.INVALID_UTF8: lambda heard: b"\xff\xfe\xfd" in heard.body and NONCE.encode() in heard.body,
    Fault.ENDLESS_LINE: lambda heard: len(heard.body) > 1 << 20 and heard.body.count(b"\n") == 2,
    Fault.GZIP_BOMB: gzip_bomb,
    Fault.HUGE_LINE: lambda heard: max(map(len, heard.data)) > 1 << 20,
    Fault.HUGE_BODY: lambda heard: len(heard.body) > 8 << 20 and max(map(len, heard.data)) < 1 << 20,
    Fault.DEEP_JSON: lambda heard: any(text.count("[") == 2000 for text in heard.data),
    Fault.HEADER_FLOOD: lambda heard: len(heard.head) > 64 << 10 and heard.ended == "fin",
    Fault.HTML_PAGE: lambda heard: "content-type: text/html" in heard.head and b"<h1>" in heard.rest,
    Fault.REDIRECT: lambda heard: heard.status == 302 and "location: /login" in heard.head,
    Fault.INSIDE_REDIRECT: lambda heard: heard.status == 307 and "location: http://169.254.169.254/" in heard.head,
    Fault.CONTENT_FILTER: lambda heard: heard.finish == "content_filter" and heard.text() != "",
    Fault.SERVER_ERROR_500: refused_with(500, None, "server_error"),
    Fault.OVERLOADED_503: refused_with(503, "server_is_overloaded", "service_unavailable_error"),
    Fault.GATEWAY_TIMEOUT_504: refused_with(504, None, "timeout"),
    Fault.OVERLOADED_529: refused_with(529, None, "overloaded_error"),
    Fault.RATE_LIMITED_429: lambda heard: (
        refused_with(429, "rate_limit_exceeded", "requests")(heard) and "\r\nretry-after: " in heard.head
    ),
    Fault.RATE_LIMITED_DATE: retried("retry-after"),
    Fault.RATE_LIMITED_MS: retried("retry-after-ms"),
    Fault.NO_CAPACITY_498: refused_with(498, None, "capacity_exceeded"),
    Fault.QUOTA_429: refused_with(429, "insufficient_quota", "insufficient_quota"),
    Fault.PAYMENT_402: refused_with(402, "insufficient_balance", "billing_error"),
    Fault.AUTH_401: lambda heard: heard.status == 401 and "sim-northwind" in heard.error["message"],
    Fault.PERMISSION_403: refused_with(403, "permission_denied", "permission_error"),
    Fault.REGION_403: refused_with(403, "unsupported_country_region_territory", "request_forbidden"),
    Fault.MODEL_404: lambda heard: heard.status == 404 and "`gpt-4o-mini`" in heard.error["message"],
    Fault.BAD_REQUEST_400: refused_with(400, "unsupported_value", "invalid_request_error"),
    Fault.CONTEXT_LENGTH_400: refused_with(400, "context_length_exceeded", "invalid_request_error"),
}


def enough_of(fault: Fault, endpoint: str) -> Callable[[bytes], bool] | None:
    """When all has come of a stream that is left open."""
    broken_after = script(FLEET, FLEET.endpoints[endpoint], 0, 0.0, 64, fault).broken_after
    ends = {
        Fault.HELD_OPEN: lambda raw: b"[DONE]" in raw,
        Fault.SILENT: lambda raw: True,
        Fault.SLOW_FIRST_TOKEN: lambda raw: b'"role"' in raw,
        Fault.KEEP_ALIVE_FOREVER: lambda raw: raw.count(b": keep-alive") > 10,
        Fault.STALL: lambda raw: raw.count(b"data: ") > (broken_after or 0),
        Fault.CRAWL: lambda raw: raw.count(b"data: ") > 5,
        Fault.FLOOD: lambda raw: len(raw) > 1 << 20,
        Fault.ENDLESS_LINE: lambda raw: len(raw) > 1 << 21,
    }
    return ends.get(fault)


def test_every_fault_has_a_nature_an_outcome_and_a_check() -> None:
    assert set(Fault) == set(NATURES) == set(EXPECTED) == set(EXPECTED_WHEN_NEW) == set(CHECKS)


def test_the_docs_tell_every_fault_as_it_is() -> None:
    section = (DOCS / "simulator.md").read_text().partition("## Faults")[2]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    expected = []
    for fault, nature in NATURES.items():
        told, new = f"`{EXPECTED[fault]}`", EXPECTED_WHEN_NEW[fault]
        outcome = told if new is EXPECTED[fault] else f"{told}; `{new}` if it never worked"
        expected.append(f"| `{fault}` | {nature.wire} | {outcome} |")
    assert rows == expected


def test_the_natures_agree_with_their_outcomes() -> None:
    for fault, nature in NATURES.items():
        is_ok = group_of(nature.outcome) is Group.OK
        assert (nature.reach is Reach.COMPLETE) is is_ok, fault
        assert (nature.status is None) is (nature.reach in (Reach.NOTHING, Reach.CONNECTED)), fault


def test_every_group_but_our_own_is_reached_by_some_fault() -> None:
    assert {group_of(outcome) for outcome in EXPECTED.values()} == set(Group) - {Group.MONITOR_FAULT}
    assert EXPECTED_WHEN_NEW[Fault.MODEL_404] is Outcome.UNKNOWN_MODEL


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_fault_is_on_the_wire_what_it_says(fault: Fault) -> None:
    async with serving() as server:
        heard = await hear(server.base_url(GPT), chat_bytes(GPT, fault=fault), enough_of(fault, GPT))
        assert CHECKS[fault](heard), (heard.ended, heard.raw[-600:])
        assert server.seen[-1].fault is fault


@pytest.mark.parametrize("fault", [fault for fault in Fault if NATURES[fault].reach is not Reach.ANSWERED])
async def test_a_fault_that_needs_tokens_gets_them_from_a_reasoner_as_well(fault: Fault) -> None:
    async with serving() as server:
        heard = await hear(server.base_url(R1), chat_bytes(R1, fault=fault), enough_of(fault, R1))
        has_payload = b'"content":"' in heard.raw.replace(b'"content":""', b"") or b"_content" in heard.raw
        if NATURES[fault].reach is Reach.TOKENS:
            assert has_payload
        assert server.seen[-1].fault is fault


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (Fault.EMPTY_ANSWER, lambda heard: heard.json["choices"][0]["message"]["content"] == ""),
        (Fault.REFUSAL, lambda heard: heard.json["choices"][0]["message"]["refusal"]),
        (Fault.ERROR_IN_STREAM, lambda heard: heard.error["code"] == "internal_error"),
        (Fault.ERROR_FINISH, lambda heard: heard.json["choices"][0]["finish_reason"] == "error"),
        (Fault.MISSING_USAGE, lambda heard: "usage" not in heard.json),
        (Fault.RESET, lambda heard: heard.ended == "rst"),
        (Fault.STALL, lambda heard: heard.ended == "open" and heard.rest),
        (Fault.TRUNCATED, lambda heard: f"content-length: {len(heard.rest)}" not in heard.head),
        (Fault.OVERLOADED_503, lambda heard: heard.status == 503),
    ],
)
async def test_what_is_not_streamed_can_go_wrong_too(fault: Fault, check: Callable[[Heard], bool]) -> None:
    async with serving() as server:
        request = chat_bytes(GPT, fault=fault, stream=False)
        heard = await hear(server.base_url(GPT), request, lambda raw: fault is Fault.STALL and len(raw) > 100)
        assert check(heard), heard.raw


async def test_a_malformed_whole_answer_is_no_json() -> None:
    async with serving() as server:
        heard = await chat(server, GPT, Fault.MALFORMED_JSON, stream=False)
        with pytest.raises(json.JSONDecodeError):
            _ = heard.json
