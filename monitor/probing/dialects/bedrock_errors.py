"""How AWS tells an error: a type in a header, in the body or in the framing, and a text that often says more.

https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from monitor.outcome import Outcome
from monitor.probing.dialects.json_reading import decoded, text_of
from monitor.probing.error_body import error_facts, read_error_body
from monitor.probing.error_codes import GENERAL, LATE_SIGNATURE, Hint, table
from monitor.probing.events import ErrorFacts
from monitor.probing.framings.frame import Unreadable, checked

# As `error_body` caps them: redaction sees keys whole.
_MAX_MESSAGE = 4000
_MAX_CODE = 100

CODES = GENERAL.with_own(
    telling=table(
        (Outcome.QUOTA, "service_quota_exceeded service_quota_exceeded_exception"),
        (
            Outcome.AUTH,
            "unrecognized_client unrecognized_client_exception invalid_client_token_id expired_token "
            "expired_token_exception missing_authentication_token missing_authentication_token_exception "
            "signature_mismatch credential_refused",
        ),
        (Outcome.CLOCK, "request_expired"),
        (Hint.MODEL, "resource_not_found_exception ftu_form_not_filled"),
        (Hint.CAPACITY, "model_not_ready_exception service_unavailable_exception"),
    ),
    vague=table(
        (Outcome.RATE_LIMITED, "too_many_requests_exception"),
        (
            Outcome.SERVER_ERROR,
            "internal_server_exception internal_failure model_error_exception model_stream_error_exception "
            "model_timeout_exception",
        ),
        (Outcome.BAD_REQUEST, "validation_exception conflict_exception"),
    ),
)

# AWS tells much by its text alone: what it says as a code, which stands behind AWS's own. The first that fits counts.
_SAID = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (LATE_SIGNATURE.pattern, "signature_expired"),
        (r"InvalidSignature|IncompleteSignature|SignatureDoesNotMatch|signature we calculated", "signature_mismatch"),
        (
            r"bearer token has expired|your API key is valid|security token\b.{0,40}\b(?:expired|invalid)",
            "credential_refused",
        ),
        (r"INVALID_PAYMENT_INSTRUMENT", "payment_required"),
        (r"from unsupported countries", "unsupported_country"),
        (
            r"model identifier is invalid|on-demand throughput|use case details have not been submitted"
            r"|doesn.t support the model|reached the end of its life",
            "model_not_available",
        ),
        (r"input tokens exceeded|expected maxLength|exceed context limit", "context_length_exceeded"),
        (r"AccessDenied|NotAuthorized|OptInRequired|operation not allowed", "permission_denied"),
    )
)


def facts_of_body(told: str, body: bytes) -> ErrorFacts:
    """Of a response that is an error by its status. `told` is its error type header. Never raises."""
    try:
        value = decoded(checked(body))
    except Unreadable:
        value = None
    if not isinstance(value, dict):
        value = {"message": read_error_body(body).message if body else ""}
    return facts_of(told, value)


def facts_of(told: str, value: Mapping[str, Any]) -> ErrorFacts:
    """`told` as a header or the framing names the error: `ThrottlingException:http://internal.amazon.com/coral/...`;
    `__type` as the body does: `com.amazon.coral.service#UnrecognizedClientException`."""
    facts = error_facts(dict(value))
    text = facts.message or text_of(value.get("Message"))[:_MAX_MESSAGE]
    original = text_of(value.get("originalMessage"))[:_MAX_MESSAGE]
    message = f"{text}: {original}" if original and original not in text else text
    named = [told.partition(":")[0].strip(), text_of(value.get("__type")).rpartition("#")[2].partition(":")[0]]
    codes = [name[:_MAX_CODE] for name in (*named, *facts.codes) if name]
    said = f"{' '.join(codes)} {message}"
    codes += [code for pattern, code in _SAID if pattern.search(said)][:1]
    return msgspec.structs.replace(facts, codes=tuple(dict.fromkeys(codes)), message=message)
