"""The outcome classes: what one probe can come to, and whom it speaks of.

    ok               success, reasoning_cut
    provider_fault   connect, dns, tls, reset
                     timeout_connect, timeout_first_token, timeout_idle, timeout_total
                     server_error, overloaded, stream_error, truncated, empty, malformed, gone
    throttled        rate_limited, no_capacity
    account          auth, permission, quota, region              our key, our money
    probe_defect     bad_request, context_length, content_filter, unknown_model     our request
    monitor_fault    offline, overload, clock, secret_missing, shutdown             us

Only `ok` and `provider_fault` make uptime. Observations keep the class; the group is looked up when read, so that a
policy applies to all history.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Group(StrEnum):
    OK = "ok"
    PROVIDER_FAULT = "provider_fault"
    THROTTLED = "throttled"
    ACCOUNT = "account"
    PROBE_DEFECT = "probe_defect"
    MONITOR_FAULT = "monitor_fault"


class Outcome(StrEnum):
    """The classes, in the order of their storage codes: new ones are added at the end, none is moved."""

    SUCCESS = "success"
    REASONING_CUT = "reasoning_cut"
    CONNECT = "connect"
    DNS = "dns"
    TLS = "tls"
    RESET = "reset"
    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_FIRST_TOKEN = "timeout_first_token"
    TIMEOUT_IDLE = "timeout_idle"
    TIMEOUT_TOTAL = "timeout_total"
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    STREAM_ERROR = "stream_error"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    MALFORMED = "malformed"
    GONE = "gone"
    RATE_LIMITED = "rate_limited"
    NO_CAPACITY = "no_capacity"
    AUTH = "auth"
    PERMISSION = "permission"
    QUOTA = "quota"
    REGION = "region"
    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    UNKNOWN_MODEL = "unknown_model"
    OFFLINE = "offline"
    OVERLOAD = "overload"
    CLOCK = "clock"
    SECRET_MISSING = "secret_missing"
    SHUTDOWN = "shutdown"


OUTCOMES: tuple[Outcome, ...] = tuple(Outcome)
OUTCOME_CODES: Mapping[Outcome, int] = MappingProxyType({outcome: code for code, outcome in enumerate(OUTCOMES)})

_MEMBERS: dict[Group, str] = {
    Group.OK: "success reasoning_cut",
    Group.PROVIDER_FAULT: "connect dns tls reset timeout_connect timeout_first_token timeout_idle timeout_total "
    "server_error overloaded stream_error truncated empty malformed gone",
    Group.THROTTLED: "rate_limited no_capacity",
    Group.ACCOUNT: "auth permission quota region",
    Group.PROBE_DEFECT: "bad_request context_length content_filter unknown_model",
    Group.MONITOR_FAULT: "offline overload clock secret_missing shutdown",
}
_MONITOR_POLICY = {Outcome(name): group for group, names in _MEMBERS.items() for name in names.split()}

# OpenRouter owns its upstream keys and mapping, so to its users 401, 402 and 404 are downtime.
_OPENROUTER_POLICY = _MONITOR_POLICY | dict.fromkeys(
    (Outcome.AUTH, Outcome.QUOTA, Outcome.UNKNOWN_MODEL), Group.PROVIDER_FAULT
)

POLICIES: Mapping[str, Mapping[Outcome, Group]] = MappingProxyType(
    {"monitor": MappingProxyType(_MONITOR_POLICY), "openrouter": MappingProxyType(_OPENROUTER_POLICY)}
)


OK_OUTCOMES = frozenset(outcome for outcome, group in _MONITOR_POLICY.items() if group is Group.OK)  # in all policies


def group_of(outcome: Outcome, policy: str = "monitor") -> Group:
    """The group of `outcome` under the named uptime policy."""
    return POLICIES[policy][outcome]
