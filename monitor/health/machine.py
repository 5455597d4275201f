"""The state machine of one endpoint and location: the fold of `state` over what it remembers of the outcomes.

They are ordered by due time and recheck number, not by arrival, so a late one takes its own place; and not by
started_at, which a wall-clock step turns back. One that is older than all that is kept changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from monitor.health.state import (
    THROTTLED,
    Reading,
    Standing,
    State,
    advance,
    aged,
    forgotten,
    is_about_our_key,
    is_about_our_request,
)
from monitor.observation import Observation
from monitor.outcome import POLICIES, Group, Outcome, group_of
from monitor.settings import StateRule

# To look a member up takes as long as a call, and this is done for every probe.
_FAULT, _UNKNOWN = Group.PROVIDER_FAULT, State.UNKNOWN
_RELEVANT = frozenset({Group.OK, Group.PROVIDER_FAULT, Group.THROTTLED})

_PASSING = frozenset(one for one in Outcome if group_of(one) in {Group.PROVIDER_FAULT, Group.THROTTLED})

# When an observation was due, in whole milliseconds, and its recheck number: as it is stored.
Moment = tuple[int, int]


def moment_of(one: Observation | Reading) -> Moment:
    return round(one.due_at * 1000), one.recheck


def _reading_of(one: Observation) -> Reading:
    return Reading(one.due_at, one.recheck, one.started_at, one.outcome, one.detail)


class StateMachine:
    """The standing of one endpoint and location, and enough of its past to put late readings into their place.

    Use from one task. Ages are handed in, so that no wall-clock step makes anybody forget.
    """

    __slots__ = ("_base", "_horizon", "_policy", "_readings", "_rule", "_standings", "standing")

    def __init__(self, rule: StateRule, policy: str, standing: Standing | None = None) -> None:
        self._rule = rule
        self._policy = policy
        self._base = standing or Standing()  # what was known before the first of `_readings`
        self._readings: list[Reading] = []
        self._standings: list[Standing] = []  # after each of them
        self._horizon: tuple[float, int] | None = None  # (due_at, recheck): what is not later is part of `_base`
        self.standing = self._base

    @property
    def is_known(self) -> bool:
        return self.standing.state is not State.UNKNOWN

    @property
    def faults(self) -> list[Reading]:
        """What is remembered of readings that were no success."""
        remembered = (*self._base.countable, *self._readings)
        return [one for one in remembered if POLICIES[self._policy][one.outcome] is not Group.OK]

    def configure(self, rule: StateRule, policy: str) -> None:
        """A reloaded rule: it judges from the next reading on."""
        self._rule = rule
        self._policy = policy

    def observe(self, observation: Observation, forget_seconds: float) -> bool:
        """Take in one observation; whether it was countable or throttled. One that is already known changes nothing."""
        return self._take(_reading_of(observation), forget_seconds)

    def retell(
        self, readings: Sequence[Reading], forget_seconds: float, well_since: float | None = None
    ) -> Reading | None:
        """`observe` many, in order of due time and recheck; the last countable or throttled one. `well_since` says that
        all are ok and that there were more before them, the first at that time, none `forget_seconds` after another:
        then the last `readings_kept` are enough, for a machine that is blank."""
        if well_since is not None:
            self._begin_well(readings, well_since)
            return readings[-1]
        last = None
        if self.is_blank:
            readings = [one for one in readings if self._is_taken(one.outcome)]
            readings = readings[self._begin_steady(readings, forget_seconds) :]
            last = self.standing.relevant
        relevant = [one for one in readings if self._take(one, forget_seconds)]
        return relevant[-1] if relevant else last

    @property
    def is_blank(self) -> bool:
        """Whether nothing is known and nothing was observed."""
        return not self._readings and self._horizon is None and self.standing == Standing()

    @property
    def readings_kept(self) -> int:
        return 3 * max(self._rule.down_of, self._rule.up_of) + 1

    def _begin_well(self, readings: Sequence[Reading], since: float) -> None:
        """What `advance` comes to where each reading is ok and none came late: a restart tells of 300,000 such."""
        kept = max(self._rule.down_of, self._rule.up_of)

        def standing(number: int) -> Standing:
            countable = tuple(readings[max(number + 1 - kept, 0) : number + 1])
            return Standing(State.OPERATIONAL, since, countable=countable, relevant=readings[number])

        first = max(len(readings) - 2 * kept, 0)
        if first:
            self._base, self._horizon = standing(first - 1), readings[first - 1][:2]
        self._readings = list(readings[first:])
        self._standings = [standing(number) for number in range(first, len(readings))]
        self.standing = self._standings[-1]

    def _begin_steady(self, readings: Sequence[Reading], forget_seconds: float) -> int:
        """Take in, at once, as many of the first readings (all such as are taken) as surely leave it operational from
        the first on; how many. Faults and throttled ones that stand alone do: `advance` comes to the same."""
        rule, groups, kept = self._rule, POLICIES[self._policy], max(self._rule.down_of, self._rule.up_of)
        last = len(readings) - 2 * kept - 1  # those after it are remembered, so they are taken one by one
        if last < 0 or min(rule.down_of, rule.down_failures) < 2 or groups[readings[0].outcome] is not Group.OK:
            return 0
        well = steady = 0  # the last place of an ok, and the last up to which nothing is to be looked into
        apart = rule.down_of  # since the last that was none
        for place, one in enumerate(readings[: last + 1]):
            if groups[one.outcome] is Group.OK:
                if one.due_at - readings[well].due_at >= forget_seconds:
                    break
                well = steady = place
                apart += 1
            elif one.outcome in _PASSING and groups[one.outcome] in _RELEVANT and apart >= rule.down_of:
                apart = 1
            else:
                break
        before = readings[: steady + 1]
        countable = [one for one in before[-2 * kept :] if groups[one.outcome] is not Group.THROTTLED]
        self._horizon = before[-1][:2]
        self._base = self.standing = Standing(
            State.OPERATIONAL, readings[0].started_at, countable=tuple(countable[-kept:]), relevant=before[-1]
        )
        return len(before)

    def relived(
        self, observations: Sequence[Observation], changed: Mapping[Moment, Outcome], forget_seconds: float
    ) -> StateMachine:
        """A machine that has seen these, and those of this one's readings that are not among them, with the class that
        they have now if it has `changed`. A state that is the same as before began when it began."""
        readings = {moment_of(one): _reading_of(one) for one in observations}
        for reading in self._readings:
            moment = moment_of(reading)
            if moment not in readings:
                readings[moment] = reading._replace(outcome=changed.get(moment, reading.outcome))
        machine = StateMachine(self._rule, self._policy)
        for reading in sorted(readings.values(), key=lambda one: one[:2]):
            machine._take(reading, forget_seconds)
        former, found = self.standing, machine.standing
        if former.since is not None and found.since is not None and found.state is former.state:
            machine.standing = found._replace(since=min(former.since, found.since))
            if machine._standings:
                machine._standings[-1] = machine.standing
            else:
                machine._base = machine.standing
        return machine

    def _take(self, reading: Reading, forget_seconds: float) -> bool:
        relevant = POLICIES[self._policy][reading.outcome] in _RELEVANT
        if not (relevant or self._is_taken(reading.outcome)):
            return False
        readings = self._readings
        place = len(readings)
        if readings and reading[:2] <= readings[-1][:2]:
            place = bisect_left(readings, reading[:2], key=lambda one: one[:2])
            if readings[place][:2] == reading[:2]:
                return False
        if self._horizon is not None and reading[:2] <= self._horizon:
            return False
        readings.insert(place, reading)
        del self._standings[place:]
        standing = self._standings[-1] if self._standings else self._base
        for one in readings[place:]:
            standing = advance(standing, one, self._rule, self._policy, forget_seconds)
            self._standings.append(standing)
        self.standing = standing
        # Twice what the rule looks at: a reading that is later than this hardly bears on the present.
        while len(readings) > 2 * max(self._rule.down_of, self._rule.up_of):
            self._horizon = readings.pop(0)[:2]
            self._base = self._standings.pop(0)
        return relevant

    def _is_taken(self, outcome: Outcome) -> bool:
        return (
            POLICIES[self._policy][outcome] in _RELEVANT or is_about_our_key(outcome) or is_about_our_request(outcome)
        )

    def expire(self, age_seconds: float, forget_seconds: float) -> bool:
        """Forget what is too old: `age_seconds` is how long ago the last relevant reading was due (infinite if there
        is none). Whether the state or its cause changed."""
        before = self.standing
        if before.relevant is None:
            after = forgotten(before, forget_seconds) if age_seconds >= forget_seconds else before
        else:
            after = aged(before, before.relevant.due_at + age_seconds, forget_seconds)
        if after is before:
            return False
        self._base = self.standing = after
        if self._readings:
            self._horizon = self._readings[-1][:2]
            self._readings.clear()
            self._standings.clear()
        return (after.state, after.cause) != (before.state, before.cause)

    def expires_after_seconds(self, forget_seconds: float) -> float | None:
        """How old the last relevant reading must be for `expire` to change anything; None if it never will."""
        standing = self.standing
        if standing.state is _UNKNOWN and standing.throttled_run == 0:
            return None
        if standing.relevant is None or standing.throttled_run == 0 or not standing.countable:
            return forget_seconds
        if standing.state is State.DEGRADED and standing.cause == THROTTLED:
            return forget_seconds
        return forget_seconds - (standing.relevant.due_at - standing.countable[-1].due_at)

    def wants_recheck(self, observation: Observation) -> bool:
        """Whether `observation` is a fault that a quick recheck would help to settle: never when already down, and at
        most `down_failures` - 1 times in a slot."""
        return (
            POLICIES[self._policy][observation.outcome] is _FAULT
            and self.standing.state is not State.DOWN
            and observation.recheck < self._rule.down_failures - 1
        )
