"""The incidents of a made-up past: what the states would have been, had somebody watched it all."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import numpy as np

from monitor.health.incidents import Incident, IncidentLedger
from monitor.health.machine import StateMachine
from monitor.health.state import Transition
from monitor.observation import Observation
from monitor.outcome import POLICIES, Group, Outcome
from monitor.settings import StateRule
from monitor.simulator.behaviour import NO_FAULT, rows
from monitor.simulator.faults import EXPECTED, FAULTS
from monitor.simulator.members import Fleet

# Rechecks draw their luck far from where slots, of any interval, draw theirs.
_FIRST_RECHECK = 1 << 48


@dataclass(slots=True)
class _Watched:
    machine: StateMachine
    steady: int = 0  # good answers in a row
    telling: list[Observation] = field(default_factory=list)  # since the last `settle`


class PastIncidents:
    """Takes the past's observations in order of time, and sends the rechecks that it leaves out. Use from one task."""

    def __init__(self, fleet: Fleet, rule: StateRule, policy: str = "monitor") -> None:
        self._fleet = fleet
        self._rule = rule
        self._groups = POLICIES[policy]
        self._ledger = IncidentLedger()
        self._watched = {name: _Watched(StateMachine(rule, policy)) for name in fleet.endpoints}

    def add(self, observation: Observation) -> None:
        watched = self._watched[observation.endpoint]
        watched.steady = watched.steady + 1 if self._groups[observation.outcome] is Group.OK else 0
        # One good answer more after so many changes no state, and nearly all answers are such.
        if watched.steady <= max(self._rule.down_of, self._rule.up_of):
            watched.telling.append(observation)

    def settle(self) -> list[Incident]:
        """The incidents that began, changed or ended with what was added since the last call, as they are now."""
        found: dict[tuple[str, str, float], Incident] = {}
        for name, watched in self._watched.items():
            rechecks = self._rechecks(name, watched.telling)
            for observation in watched.telling:
                again: Observation | None = observation
                while again is not None:
                    for incident in self._observe(watched.machine, again):
                        found[incident.key] = incident
                    wanted = watched.machine.wants_recheck(again)
                    again = rechecks.get((observation.slot, again.recheck + 1)) if wanted else None
            watched.telling.clear()
        return list(found.values())

    def _observe(self, machine: StateMachine, observation: Observation) -> list[Incident]:
        before = machine.standing
        # The steady answers in between are left out: nothing is ever too old.
        machine.observe(observation, float("inf"))
        after = machine.standing
        if (after.state, after.cause) == (before.state, before.cause) or after.since is None:
            return []
        transition = Transition(
            observation.endpoint, observation.location, before.state, after.state, after.cause, after.since,
            observation.started_at, after.detail,
        )  # fmt: skip
        return [event.incident for event in self._ledger.apply(transition)]

    def _rechecks(self, name: str, observations: list[Observation]) -> dict[tuple[int, int], Observation]:
        """By slot and number, every recheck that could be wanted: drawn at once, since numpy's cost is per call."""
        failed = [one for one in observations if self._groups[one.outcome] is Group.PROVIDER_FAULT]
        asked = [(one, number) for one in failed for number in range(1, self._rule.down_failures)]
        if not asked:
            return {}
        at = np.array([one.started_at + number * self._rule.recheck_seconds for one, number in asked])
        numbers = np.array([_FIRST_RECHECK + one.slot * 64 + number for one, number in asked], dtype=np.int64)
        drawn = rows(self._fleet, self._fleet.endpoints[name], numbers, at, max_tokens=1)  # only the faults are wanted
        made = {}
        for (one, number), code, started_at in zip(asked, drawn.fault.tolist(), at.tolist(), strict=True):
            outcome = Outcome.SUCCESS if code == NO_FAULT else EXPECTED[FAULTS[code]]
            detail = one.detail if outcome is one.outcome else None
            made[one.slot, number] = msgspec.structs.replace(
                one, recheck=number, started_at=started_at, outcome=outcome, detail=detail
            )
        return made
