"""What providers' structured codes and messages mean, as data. Codes are compared without case and punctuation.

Dialects without a table of their own are read with this one: OpenAI's words, and those of the hosts that copy it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from monitor.outcome import Outcome


class Hint(Enum):
    """What a code or a text speaks of, where the outcome also hangs on the status or on the past."""

    CAPACITY = "capacity"  # no_capacity if 429 or 498 tells it, else overloaded
    MODEL = "model"  # gone if the model was there before, else unknown_model


Meaning = Outcome | Hint


def plain(code: str) -> str:
    """`Model-Not_Found` as `modelnotfound`."""
    return "".join(character for character in code.lower() if character.isalnum())


def table(*rows: tuple[Meaning, str]) -> Mapping[str, Meaning]:
    return {plain(code): meaning for meaning, codes in rows for code in codes.split()}


# Codes that settle the class whatever the status is.
TELLING: Mapping[str, Meaning] = table(
    (
        Outcome.QUOTA,
        "insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded project_spend_limit_exceeded "
        "organization_usage_limit_exceeded enforced_spend_limit_reached billing_hard_limit_reached billing_not_active "
        "billing_error insufficient_balance insufficient_credits insufficient_credit insufficient_funds "
        "payment_required quota_exceeded exceeded_current_quota_error insufficient_user_quota arrearage "
        "daily_limit_exceeded out_of_credits spend_limit_exceeded monthly_limit_exceeded",
    ),
    (
        Outcome.AUTH,
        "invalid_api_key authentication_error authentication invalid_authentication authentication_fails unauthorized "
        "unauthenticated api_key_invalid api_key_expired api_key_disabled missing_api_key no_api_key invalid_token "
        "token_expired expired_api_key incorrect_api_key incorrect_api_key_error invalid_authentication_error "
        "account_deactivated invalid_organization ip_not_authorized invalid_auth",
    ),
    (
        Outcome.REGION,
        "unsupported_country_region_territory unsupported_country unsupported_region region_restricted "
        "location_not_supported country_not_supported geo_restricted region_not_supported",
    ),
    (
        Outcome.PERMISSION,
        "permission_error permission_denied permission_denied_error insufficient_permissions access_denied "
        "access_terminated_error model_access_denied model_not_allowed model_terms_required privacy_restricted "
        "organization_restricted service_disabled",
    ),
    (
        Outcome.CONTEXT_LENGTH,
        "context_length_exceeded context_window_exceeded context_length_error request_too_large payload_too_large "
        "token_limit_exceeded prompt_too_long input_too_long string_above_max_length string_too_long "
        "exceed_context_size_error model_context_window_exceeded",
    ),
    (
        Outcome.CONTENT_FILTER,
        "content_filter content_policy_violation content_policy moderation_blocked responsible_ai_policy_violation "
        "refusal data_inspection_failed content_moderation flagged_input sensitive_content invalid_prompt "
        "content_filtered guardrail_intervened",
    ),
    (
        Hint.MODEL,
        "model_not_found not_found not_found_error not_found_error_exception deployment_not_found model_deprecated "
        "model_decommissioned invalid_model unknown_model no_such_model model_not_available model_not_exist "
        "resource_not_found resource_not_found_error no_endpoints model_not_supported unsupported_model "
        "free_variant_ended invalid_model_error model_not_found_error operation_not_supported "
        "model_unavailable_upstream",
    ),
    (
        Hint.CAPACITY,
        "overloaded overloaded_error server_is_overloaded server_overloaded engine_overloaded engine_overloaded_error "
        "model_overloaded provider_overloaded service_unavailable service_unavailable_error capacity_exhausted "
        "capacity_exceeded no_capacity insufficient_capacity flex_capacity_exceeded model_not_ready unavailable "
        "server_busy no_available_capacity resource_unavailable insufficient_system_resource system_overloaded",
    ),
    (
        # The message of such a one names the model that does not take the parameter.
        Outcome.BAD_REQUEST,
        "unsupported_parameter unsupported_value unsupported_type unknown_parameter unrecognized_parameter "
        "missing_required_parameter missing_parameter missing_required_field extra_forbidden invalid_type "
        "unknown_field integer_above_max_value integer_below_min_value wrong_endpoint constraint_filtered",
    ),
    (Outcome.CLOCK, "request_time_too_skewed signature_expired"),
)

# Codes that every kind of error carries with some host: they count only where the status says less than they do.
VAGUE: Mapping[str, Meaning] = table(
    (
        Outcome.RATE_LIMITED,
        "rate_limit_exceeded rate_limit_error rate_limited rate_limit too_many_requests throttling_exception "
        "throttling throttled slow_down resource_exhausted rate_limit_reached_error requests_limit_exceeded",
    ),
    (
        Outcome.SERVER_ERROR,
        "server_error api_error internal_error internal_server_error internal provider_unavailable timeout "
        "timeout_error deadline_exceeded gateway_timeout model_timeout bad_gateway upstream_error cancelled "
        "model_error unknown_error temporarily_unavailable",
    ),
    (
        Outcome.BAD_REQUEST,
        "invalid_request_error invalid_request bad_request bad_request_error invalid_argument validation_error "
        "unprocessable_entity unprocessable invalid_value failed_precondition precondition_failed "
        "invalid_parameter invalid_parameter_error max_tokens_exceeded",
    ),
)


class Codes(msgspec.Struct, frozen=True):
    """What one dialect's codes mean, under their `plain` names."""

    telling: Mapping[str, Meaning]  # these settle the class whatever the status is
    vague: Mapping[str, Meaning]  # these count only where the status says less than they do
    statuses: Mapping[int, Meaning] = {}  # HTTP statuses that mean another thing than with others

    def with_own(
        self,
        telling: Mapping[str, Meaning] | None = None,
        vague: Mapping[str, Meaning] | None = None,
        statuses: Mapping[int, Meaning] | None = None,
    ) -> Codes:
        """A dialect's own go before the common ones; a code that it calls vague is telling no more."""
        own_telling, own_vague = telling or {}, vague or {}
        common = {code: meaning for code, meaning in self.telling.items() if code not in own_vague}
        own_statuses = {**self.statuses, **(statuses or {})}
        return Codes({**common, **own_telling}, {**self.vague, **own_vague}, own_statuses)


GENERAL = Codes(TELLING, VAGUE)

# Google tells what ran out: `GenerateRequestsPerDayPerProjectPerModel-FreeTier`, `...PerMinute...`.
QUOTA_ID_DAILY = "perday"
QUOTA_ID_MINUTE = "perminute"

# `.../settings/billing` is no word about billing, and `projects/x/locations/y` names no forbidden place.
# From a word's start on and without going back: a message of one long word would else cost a second.
URLS = re.compile(r"https?://\S+|(?<![^\s/])[^\s/]*+(?:/[^\s/]*+){2,}", re.IGNORECASE)


def _texts(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


DAILY_QUOTA = _texts(
    r"\bper[ _-]?(?:day|month)\b",
    r"/ ?(?:day|month)\b",
    r"\bdaily\b",
    r"\bmonthly (?:limit|quota|usage)",
    r"\b[TR]PD\b",
    r"\bday limit\b",
)
QUOTA = _texts(
    r"exceeded your current quota",
    r"check your plan and billing",
    r"insufficient[ _](?:quota|balance|credits?|funds)",
    r"(?:out of|not enough|no(?: remaining)?|exhausted (?:your|all)(?: \w+)?) credits?\b",
    r"credit balance is too low",
    r"(?:spend(?:ing)?|usage|budget) (?:limit|cap)[a-z ]{0,20}(?:reached|exceeded)",
    r"(?:reached|exceeded) (?:your|the|its)[a-z ]{0,20} (?:spend(?:ing)?|usage|budget) (?:limit|cap)",
    r"quota (?:has been |is )?(?:exhausted|exceeded|used up)",
)
RATE = _texts(r"rate[ -]?limit", r"too many requests")
CAPACITY = _texts(
    r"high demand",
    r"overload",
    r"(?:at|over|no(?: available)?|insufficient|out of|exceeded) capacity",
    r"capacity (?:exceeded|exhausted|reached|constraints?)",
    r"(?:server|model|system|engine) is (?:currently |too |very )*busy",
    r"server busy",
    r"not (?:currently )?ready",
    r"temporarily (?:at )?capacity",
)
PLACE = _texts(
    r"\bcountr(?:y|ies)\b",
    r"\bregions?\b",
    r"\bterritor(?:y|ies)\b",
    r"\blocations?\b",
    r"\bjurisdictions?\b",
    r"\bgeo(?:graph\w*|-?(?:block|restrict)\w*)",
    r"\bnot (?:available|supported) in (?:your area|(?-i:[A-Z])[a-z]+)",
)
ELSEWHERE = _texts(
    r"\b(?:location|country|region)\b[a-z ,]{0,30} not supported",
    r"not (?:supported|available) in your (?:country|region|location)",
)
CONTEXT = _texts(
    r"context[ _](?:length|window|size|limit)",
    r"too many (?:input )?tokens",
    r"(?:prompt|input)[a-z ]{0,20} is too long",
    r"exceeds? the (?:model'?s? )?maximum (?:number of )?(?:input )?tokens",
    r"maximum (?:prompt|input|sequence) length",
)
FILTER = _texts(
    r"content management policy",
    r"content exists risk",
    r"content[ _](?:filter|policy|moderation)",
    r"safety system",
    r"\bflagged\b",
)
KEY = _texts(
    r"api[ _-]?key (?:not (?:valid|found)|expired|is (?:invalid|expired|missing))",
    r"(?:invalid|incorrect|missing|no|expired) (?:\w+ )?api[ _-]?key",
    r"invalid (?:authentication|bearer|access token)",
)
MODEL = _texts(
    r"\bmodels?\b.{0,120}?\b(?:not exist|not found|doesn'?t exist|unknown|decommissioned|deprecated|retired|unavailable"
    r"|not (?:currently )?(?:supported|available)|not a valid)\b",
    r"(?:no such|unknown|invalid|unsupported|non-?existent) (?:model|deployment)\b",
    r"not a valid model",
    r"deployment.{0,80}does not exist",
    r"no (?:available channel|endpoints?|provider) (?:found )?for",
)
LATE_SIGNATURE = _texts(r"signature (?:has )?expired", r"signature not yet current", r"time.{0,20}too skewed")
