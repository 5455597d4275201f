"""What Google's APIs tell of an error: {"error": {"code", "message", "status", "details"}}. Pure, and never raises.

The status is a class of gRPC and says little: RESOURCE_EXHAUSTED is a rate, a quota or an empty purse, and
FAILED_PRECONDITION a country or an unpaid bill. The `reason` of an ErrorInfo says more; at times only the text does.

https://ai.google.dev/gemini-api/docs/troubleshooting, https://google.aip.dev/193, google.api.ErrorReason
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from monitor.outcome import Outcome
from monitor.probing.dialects.json_reading import member, text_of
from monitor.probing.error_body import error_facts, read_error_body
from monitor.probing.error_codes import GENERAL, QUOTA_ID_DAILY, QUOTA_ID_MINUTE, plain, table
from monitor.probing.events import ErrorFacts
from monitor.probing.framings.frame import is_too_deep

CODES = GENERAL.with_own(
    telling=table(
        (Outcome.QUOTA, "billing_disabled resource_quota_exceeded"),
        (Outcome.AUTH, "access_token_expired access_token_type_unsupported credentials_missing"),
        (Outcome.REGION, "location_policy_violated location_org_policy_violated location_tax_policy_violated"),
        (Outcome.PERMISSION, "pup_limited_disabled"),
    )
)

# Codes that a text stands for where there is no other. They come behind Google's own.
_SAID: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"enable billing|billing (?:account )?(?:is )?(?:disabled|not (?:active|enabled))", re.I), "billing"),
    (re.compile(r"credits? (?:are|is|has been|have been) (?:depleted|exhausted)|spend(?:ing)? cap", re.I), "billing"),
    (re.compile(r"location is not supported|not available in your (?:country|region)", re.I), "location"),
    (re.compile(r"per[ _]?day", re.I), "day"),
    (re.compile(r"per[ _]?minute", re.I), "minute"),
)
_MEANT = {
    "billing": "billing_not_active",
    "location": "location_not_supported",
    "day": QUOTA_ID_DAILY,
    "minute": QUOTA_ID_MINUTE,
}


def read_google_error(body: bytes) -> ErrorFacts:
    """The facts in the body of a response that is an error by its status."""
    if not body or is_too_deep(body):
        return read_error_body(body) if body else ErrorFacts()
    try:
        return google_facts(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return read_error_body(body)


def google_facts(value: Any) -> ErrorFacts:
    """The facts of an error, the narrowest code first; in a list (without `alt=sse`) of its first."""
    facts = error_facts(value)
    error = next((item for item in value if isinstance(item, dict)), None) if isinstance(value, list) else value
    status = text_of(member(error, "error", "status"))
    codes = [code for code in facts.codes if code != status]
    details = member(error, "error", "details")
    for detail in details if isinstance(details, list) else ():
        if limit := text_of(member(detail, "metadata", "quota_limit")):
            codes.append(limit)
    if status:
        codes.append(status)
    is_timed = any(span in plain(code) for code in codes for span in (QUOTA_ID_DAILY, QUOTA_ID_MINUTE))
    for pattern, subject in _SAID:
        if pattern.search(facts.message) and not (is_timed and subject in ("day", "minute")):
            codes.append(_MEANT[subject])
            break
    return msgspec.structs.replace(facts, codes=tuple(codes))
