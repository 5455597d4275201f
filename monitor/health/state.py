"""The state of one endpoint seen from one location: a pure fold over its recent outcomes, rechecks included.

    unknown ──first ok──> operational <──> degraded <──> down

Only `ok` and `provider_fault` (under the configured policy) are countable. With `down: 3 of 4, up: 2 of 2`:

- down: a fault comes and 3 of the last 4 countable outcomes are faults. Only the up rule, or throttling, leads out.
- operational: the first ok out of unknown, or an ok that makes it 2 of the last 2. What was before those no longer
  counts: one new fault after a recovery does not revive the old ones.
- degraded: not down, but at least 2 and at least half of the last 4 countable outcomes are faults. A fault never
  betters a state and an ok never worsens one. Unknown does not become degraded by faults: only down, by its rule.
- degraded, cause `throttled`: the last 4 outcomes that are countable or throttled are all throttled, or nothing else
  came since `forget` (so out of unknown the first throttled one is enough). Never down: the provider answers.
- unknown: nothing countable or throttled for `forget` times the interval. It begins when that time was over, not when
  somebody noticed. Older outcomes are forgotten with it.
- account, probe_defect and monitor_fault leave the state as it was. An account outcome, or a missing secret, makes the
  endpoint unusable until an ok comes; under every policy, since it is about our key. A probe_defect is remembered as
  long, beside the state, since only the operator can mend our request.

The cause of degraded and down is the class most frequent among the faults of the last 4; of several, the one named
before, else the newest. `since` is when the first observation of the run that led to the state began.

What remembers the outcomes, and puts late ones into their place, is `machine`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from monitor.outcome import POLICIES, Group, Outcome, group_of
from monitor.settings import StateRule

# To look a member up takes as long as a call, and this is done for every probe.
_OK, _FAULT, _THROTTLED = Group.OK, Group.PROVIDER_FAULT, Group.THROTTLED
THROTTLED = "throttled"  # the cause of a state that only throttling made


class State(StrEnum):
    UNKNOWN = "unknown"
    OPERATIONAL = "operational"
    DEGRADED = "degraded"
    DOWN = "down"


_OPERATIONAL = State.OPERATIONAL


@dataclass(frozen=True, slots=True)
class Transition:
    """A confirmed change of state or of its cause. `since` and `at` are UTC seconds: when the state began, and when
    the observation began (or the time ran out) that confirmed it. `detail` is the redacted message of that
    observation."""

    endpoint: str
    location: str
    previous: State
    state: State
    cause: str | None
    since: float
    at: float
    detail: str | None = None


class Reading(NamedTuple):
    """What the state machine sees of an observation; ordered by when it was due."""

    due_at: float
    recheck: int
    started_at: float
    outcome: Outcome
    detail: str | None


class Standing(NamedTuple):
    """What is known after a reading. `countable` are the last countable readings, oldest first."""

    state: State = State.UNKNOWN
    since: float | None = None
    cause: str | None = None
    detail: str | None = None
    usable: bool = True
    unusable_cause: str | None = None
    defect: str | None = None  # the class by which our own request was refused, until an ok comes
    defect_detail: str | None = None
    countable: tuple[Reading, ...] = ()
    throttled_run: int = 0  # throttled ones since the last countable one
    throttled_since: float | None = None
    relevant: Reading | None = None  # the last countable or throttled one

    @property
    def is_ours_to_mend(self) -> bool:
        """Whether the key, or the request, has been refused and no ok has come since."""
        return not self.usable or self.defect is not None

    @property
    def shown_cause(self) -> str | None:
        """What is to be seen to: the state's cause, and where it has none our own refused request."""
        return self.defect if self.cause is None else self.cause

    @property
    def shown_detail(self) -> str | None:
        return self.defect_detail if self.cause is None else self.detail


def as_transition(endpoint: str, location: str, standing: Standing, now: float) -> Transition:
    """What `standing` is, told as if it had just come about."""
    since = now if standing.since is None else standing.since
    return Transition(endpoint, location, standing.state, standing.state, standing.cause, since, since, standing.detail)


_ABOUT_OUR_KEY = frozenset(one for one in Outcome if group_of(one) is Group.ACCOUNT) | {Outcome.SECRET_MISSING}
_ABOUT_OUR_REQUEST = frozenset(one for one in Outcome if group_of(one) is Group.PROBE_DEFECT)


def is_about_our_key(outcome: Outcome) -> bool:
    return outcome in _ABOUT_OUR_KEY


def is_about_our_request(outcome: Outcome) -> bool:
    return outcome in _ABOUT_OUR_REQUEST


def advance(
    standing: Standing, reading: Reading, rule: StateRule, policy: str, forget_seconds: float = float("inf")
) -> Standing:
    """`standing` after one more reading, which is later than all before it."""
    group = POLICIES[policy][reading.outcome]
    standing = aged(standing, reading.due_at, forget_seconds)
    if group is _OK:
        if standing.is_ours_to_mend:
            standing = standing._replace(usable=True, unusable_cause=None, defect=None, defect_detail=None)
    elif is_about_our_key(reading.outcome):
        standing = standing._replace(usable=False, unusable_cause=reading.outcome.value)
    elif is_about_our_request(reading.outcome):
        standing = standing._replace(defect=reading.outcome.value, defect_detail=reading.detail)
    if group is _THROTTLED:
        return _throttled(standing, reading, rule)
    if group is _OK or group is _FAULT:
        return _counted(standing, reading, rule, policy)
    return standing


def aged(standing: Standing, due_at: float, forget_seconds: float) -> Standing:
    """`standing` as it is by `due_at`, by the mere passing of time: forgotten, or only throttled since `forget`."""
    if standing.relevant is None:
        return standing
    if due_at - standing.relevant.due_at >= forget_seconds:
        return forgotten(standing, forget_seconds)
    if standing.throttled_run and standing.countable and due_at - standing.countable[-1].due_at >= forget_seconds:
        return only_throttled(standing)._replace(countable=())
    return standing


def forgotten(standing: Standing, forget_seconds: float) -> Standing:
    """Unknown, from the moment on when the last relevant reading was `forget_seconds` old. What is ours to mend (the
    key, the request) stays as it was."""
    return Standing(
        since=None if standing.relevant is None else standing.relevant.started_at + forget_seconds,
        usable=standing.usable,
        unusable_cause=standing.unusable_cause,
        defect=standing.defect,
        defect_detail=standing.defect_detail,
    )


def only_throttled(standing: Standing) -> Standing:
    """Degraded by throttling, from the first of the run on."""
    if standing.state is State.DEGRADED and standing.cause == THROTTLED:
        return standing
    return standing._replace(
        state=State.DEGRADED,
        cause=THROTTLED,
        since=standing.throttled_since,
        detail=standing.relevant.detail if standing.relevant else None,
    )


def _throttled(standing: Standing, reading: Reading, rule: StateRule) -> Standing:
    # A restored state has no readings of its own yet; only out of unknown is the first throttled one all there is.
    nothing_else = standing.state is State.UNKNOWN and not standing.countable
    standing = standing._replace(
        throttled_run=standing.throttled_run + 1,
        throttled_since=reading.started_at if standing.throttled_run == 0 else standing.throttled_since,
        relevant=reading,
    )
    return only_throttled(standing) if nothing_else or standing.throttled_run >= rule.down_of else standing


def _counted(standing: Standing, reading: Reading, rule: StateRule, policy: str) -> Standing:
    groups = POLICIES[policy]
    countable = (*standing.countable, reading)[-max(rule.down_of, rule.up_of) :]
    # Spelled out: `_replace` takes three times as long, and this is done for every probe.
    standing = Standing(
        standing.state, standing.since, standing.cause, standing.detail, standing.usable, standing.unusable_cause,
        standing.defect, standing.defect_detail, countable, 0, None, reading,
    )  # fmt: skip
    if standing.state is _OPERATIONAL and groups[reading.outcome] is _OK:
        return standing
    recent = countable[-rule.down_of :]
    faults = [one for one in recent if groups[one.outcome] is Group.PROVIDER_FAULT]
    many_faults = len(faults) >= 2 and 2 * len(faults) >= len(recent)

    if groups[reading.outcome] is Group.OK:
        latest = countable[-rule.up_of :]
        oks = [one for one in latest if groups[one.outcome] is Group.OK]
        # A state that came without any fault (throttled from the start) is over with its first ok, as unknown is.
        first = standing.state is State.UNKNOWN or (standing.state is not State.DOWN and len(oks) == len(countable))
        if first or len(oks) >= rule.up_successes:
            return _well(standing, oks)
        if standing.state is State.DEGRADED and not many_faults:
            return _well(standing, oks[-1:])
    elif len(faults) >= rule.down_failures:
        if standing.state is not State.DOWN:
            # What was degraded before this run began (throttled, say) was not down yet.
            run = [one for one in faults if standing.since is None or one.started_at >= standing.since]
            standing = standing._replace(state=State.DOWN, since=(run or faults)[0].started_at)
    elif standing.state is State.OPERATIONAL and many_faults:
        standing = standing._replace(state=State.DEGRADED, since=faults[0].started_at)
    if standing.state in (State.DEGRADED, State.DOWN) and faults:
        return _with_cause(standing, faults)
    return standing


def _well(standing: Standing, oks: Sequence[Reading]) -> Standing:
    if standing.state is State.OPERATIONAL:
        return standing
    # An ok from before the state that is over helped to end it, but did not begin what follows.
    first = next((one for one in oks if standing.since is None or one.started_at > standing.since), oks[-1])
    return standing._replace(
        state=State.OPERATIONAL,
        since=first.started_at,
        cause=None,
        detail=None,
        countable=tuple(oks),
    )


def _with_cause(standing: Standing, faults: Sequence[Reading]) -> Standing:
    counts = Counter(one.outcome.value for one in faults)
    most = max(counts.values())
    newest_first = [one for one in reversed(faults) if counts[one.outcome.value] == most]
    telling = next((one for one in newest_first if one.outcome.value == standing.cause), newest_first[0])
    return standing._replace(cause=telling.outcome.value, detail=telling.detail)
