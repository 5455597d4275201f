from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable

import pytest
from health_stage import HERE, NOW, ONE, probe
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from monitor.health.incidents import Incident, IncidentEvent, IncidentLedger, events_of
from monitor.health.machine import StateMachine
from monitor.health.state import THROTTLED, Standing, State, Transition
from monitor.observation import Observation
from monitor.outcome import POLICIES, Group, Outcome
from monitor.settings import StateRule

RULE = StateRule()
UNKNOWN, OPERATIONAL, DEGRADED, DOWN = State.UNKNOWN, State.OPERATIONAL, State.DEGRADED, State.DOWN
LETTERS = {
    "o": Outcome.SUCCESS,
    "r": Outcome.REASONING_CUT,
    "F": Outcome.SERVER_ERROR,
    "C": Outcome.CONNECT,
    "t": Outcome.RATE_LIMITED,
    "a": Outcome.AUTH,
    "q": Outcome.QUOTA,
    "p": Outcome.BAD_REQUEST,
    "m": Outcome.OFFLINE,
    "s": Outcome.SECRET_MISSING,
}
FORGET = 600.0


def story(letters: str, start: float = NOW, step: float = 60.0) -> list[Observation]:
    """One scheduled probe a minute, a letter each; "." is a slot without a probe."""
    return [
        probe(start + step * number, LETTERS[letter], detail=f"{letter}{number}")
        for number, letter in enumerate(letters)
        if letter != "."
    ]


def machine_of(letters: str, rule: StateRule = RULE, policy: str = "monitor") -> StateMachine:
    machine = StateMachine(rule, policy)
    for observation in story(letters):
        machine.observe(observation, FORGET)
    return machine


def after(letters: str, rule: StateRule = RULE, policy: str = "monitor") -> Standing:
    return machine_of(letters, rule, policy).standing


def minute(standing: Standing) -> float | None:
    """In which minute of its story a state began."""
    return None if standing.since is None else (standing.since - NOW) / 60


@pytest.mark.parametrize(
    ("letters", "state", "since"),
    [
        ("", UNKNOWN, None),
        ("o", OPERATIONAL, 0),
        ("r", OPERATIONAL, 0),
        ("F", UNKNOWN, None),
        ("FF", UNKNOWN, None),
        ("FFF", DOWN, 0),
        ("Fo", OPERATIONAL, 1),
        ("FFo", OPERATIONAL, 2),
        ("FFoF", OPERATIONAL, 2),
        ("oF", OPERATIONAL, 0),
        ("oFF", DEGRADED, 1),
        ("oFFF", DOWN, 1),
        ("oFFoF", DOWN, 1),
        ("ooFoF", DEGRADED, 2),
        ("oooooFoooooF", OPERATIONAL, 0),
        ("oFFo", DEGRADED, 1),
        ("oFFoo", OPERATIONAL, 3),
        ("FFFo", DOWN, 0),
        ("FFFoFoFo", DOWN, 0),
        ("FFFoo", OPERATIONAL, 3),
        ("FFFroF", OPERATIONAL, 3),
        ("FFFooF", OPERATIONAL, 3),
        ("FFFooFF", DEGRADED, 5),
        ("FFFooFFF", DOWN, 5),
    ],
)
def test_a_state_is_made_by_m_of_the_last_n_countable_outcomes(letters: str, state: State, since: float | None) -> None:
    standing = after(letters)
    assert (standing.state, minute(standing)) == (state, since)


@pytest.mark.parametrize("ours", "apm")
def test_our_own_trouble_leaves_the_state_as_it_was(ours: str) -> None:
    for letters in ("o", "FFF", "oFF", ""):
        before, behind = after(letters), after(letters + ours * 5)
        assert (before.state, before.cause, before.since) == (behind.state, behind.cause, behind.since)
    assert after(f"o{ours}F{ours * 3}F{ours}F").state is DOWN


def test_our_own_expired_key_makes_unusable_until_a_success_comes() -> None:
    assert after("o").usable
    assert not after("oa").usable
    assert after("oa").unusable_cause == "auth"
    assert after("oaq").unusable_cause == "quota"
    assert not after("oaFtpm").usable
    assert after("oao").usable
    assert after("oao").unusable_cause is None
    assert not after("s").usable
    assert after("p").usable


def test_our_own_refused_request_is_shown_until_a_success_comes_and_beside_every_state() -> None:
    assert after("o").shown_cause is None
    assert (after("p").state, after("p").shown_cause, after("p").shown_detail) == (UNKNOWN, "bad_request", "p0")
    assert (after("op").state, after("op").shown_cause) == (OPERATIONAL, "bad_request")
    assert after("opp").defect_detail == "p2"
    assert after("optam").shown_cause == "bad_request"
    assert (after("opFFF").state, after("opFFF").shown_cause, after("opFFF").defect) == (
        DOWN,
        "server_error",
        "bad_request",
    )
    assert (after("opo").shown_cause, after("opo").shown_detail) == (None, None)
    assert after("p..............m").shown_cause == "bad_request"
    machine = machine_of("op")
    assert machine.expire(FORGET, FORGET)
    assert (machine.standing.state, machine.standing.shown_cause) == (UNKNOWN, "bad_request")


def test_under_the_openrouter_policy_an_expired_key_counts_as_a_fault_and_still_is_ours() -> None:
    standing = after("oaaa", policy="openrouter")
    assert (standing.state, standing.cause, standing.usable) == (DOWN, "auth", False)


@pytest.mark.parametrize(
    ("letters", "state", "cause", "since"),
    [
        ("t", DEGRADED, THROTTLED, 0),
        ("ot", OPERATIONAL, None, 0),
        ("ottt", OPERATIONAL, None, 0),
        ("otttt", DEGRADED, THROTTLED, 1),
        ("tttttttttt", DEGRADED, THROTTLED, 0),
        ("FFFttt", DOWN, "server_error", 0),
        ("FFFtttt", DEGRADED, THROTTLED, 3),
        ("FFt", UNKNOWN, None, None),
        ("to", OPERATIONAL, None, 1),
        ("ootttto", OPERATIONAL, None, 6),
        ("ottttF", DEGRADED, "server_error", 1),
        ("FtttttttFF", DOWN, "server_error", 8),
        ("otamttpt", DEGRADED, THROTTLED, 1),
        ("o......t.......t", DEGRADED, THROTTLED, 7),
    ],
)
def test_throttling_degrades_and_never_takes_down(
    letters: str, state: State, cause: str | None, since: float | None
) -> None:
    standing = after(letters)
    assert (standing.state, standing.cause, minute(standing)) == (state, cause, since)


@given(st.text("ta", max_size=30))
def test_throttled_and_account_outcomes_alone_are_never_down(letters: str) -> None:
    assert after(letters).state in (UNKNOWN, DEGRADED)


def test_the_cause_is_the_most_frequent_fault_and_does_not_flicker() -> None:
    assert after("oFFF").cause == "server_error"
    assert after("oFFFC").cause == "server_error"
    assert after("oFFFCC").cause == "server_error"
    assert after("oFFFCCC").cause == "connect"
    assert after("oCFCF").cause == "connect"
    assert after("oFFFCC").detail == "F3"
    assert after("oFFFCCoo").cause is None
    assert after("oFFFCCoo").detail is None


def test_what_nothing_has_confirmed_for_long_is_forgotten_from_the_moment_it_was_too_old() -> None:
    machine = machine_of("oFFF")
    assert machine.expires_after_seconds(FORGET) == FORGET
    assert not machine.expire(FORGET - 1, FORGET)
    assert machine.expire(FORGET + 45, FORGET)
    assert machine.standing == Standing(since=NOW + 180 + FORGET)
    assert machine.expires_after_seconds(FORGET) is None
    assert not machine.expire(math.inf, FORGET)


def test_a_gap_forgets_even_if_nobody_looked_meanwhile() -> None:
    assert after("FF" + "." * 10 + "F").state is UNKNOWN
    assert after("oo" + "." * 9 + "F").state is UNKNOWN
    assert after("oo" + "." * 8 + "F").state is OPERATIONAL
    assert after("oo" + "." * 9 + "FFF").state is DOWN
    assert minute(after("oo" + "." * 9 + "FFF")) == 11
    assert after("o" + "a" * 9 + "F").state is UNKNOWN


def test_an_unusable_endpoint_stays_unusable_when_its_state_is_forgotten() -> None:
    machine = machine_of("oa")
    assert machine.expire(FORGET, FORGET)
    assert (machine.standing.state, machine.standing.usable, machine.standing.unusable_cause) == (
        UNKNOWN,
        False,
        "auth",
    )


def test_only_throttled_since_the_time_to_forget_is_degraded_though_they_were_few() -> None:
    machine = machine_of("o.....t")
    assert machine.expires_after_seconds(FORGET) == FORGET - 360
    assert not machine.expire(FORGET - 361, FORGET)
    assert machine.expire(FORGET - 360, FORGET)
    assert (machine.standing.state, machine.standing.cause, minute(machine.standing)) == (DEGRADED, THROTTLED, 6)
    assert machine.expires_after_seconds(FORGET) == FORGET
    assert machine.expire(FORGET, FORGET)
    assert machine.standing.state is UNKNOWN


def test_a_state_that_was_never_known_is_forgotten_once_and_not_looked_at_again() -> None:
    machine = machine_of("FFt")
    assert machine.expires_after_seconds(FORGET) == FORGET - 60
    assert not machine.expire(2 * FORGET, FORGET)
    assert machine.expires_after_seconds(FORGET) is None
    assert machine.standing.state is UNKNOWN


def test_what_comes_late_from_before_it_was_forgotten_does_not_revive_it() -> None:
    machine = machine_of("oooo")
    machine.expire(FORGET, FORGET)
    assert not machine.observe(probe(NOW + 170), FORGET)
    assert machine.standing.state is UNKNOWN
    assert machine.observe(probe(NOW + 1000), FORGET)
    assert machine.standing.state is OPERATIONAL


@given(st.text("oFCta", min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(letters: str, rng: random.Random) -> None:
    observations = story(letters)
    rng.shuffle(observations)
    machine = StateMachine(RULE, "monitor")
    for observation in observations:
        machine.observe(observation, FORGET)
    assert machine.standing == after(letters)


@given(st.text("oFCtap", min_size=1, max_size=40), st.data())
def test_rows_that_are_a_few_probes_late_take_their_own_place(letters: str, data: st.DataObject) -> None:
    observations = story(letters)
    delays = [data.draw(st.integers(0, 4)) for _ in observations]
    arrival = sorted(range(len(observations)), key=lambda number: (number + delays[number], number))
    machine = StateMachine(RULE, "monitor")
    for number in arrival:
        machine.observe(observations[number], FORGET)
        machine.observe(observations[number], FORGET)
    assert machine.standing == after(letters)


rules = st.builds(
    lambda down_of, down, up_of, up: StateRule(
        down_failures=min(down, down_of), down_of=down_of, up_successes=min(up, up_of), up_of=up_of
    ),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(1, 6),
)


@profile(max_examples=200)
@given(st.text("oFCtap", max_size=40), rules)
def test_under_every_rule_faults_never_better_a_state_and_successes_never_worsen_one(
    letters: str, rule: StateRule
) -> None:
    badness = {OPERATIONAL: 0, DEGRADED: 1, DOWN: 2}
    machine = StateMachine(rule, "monitor")
    since = -math.inf
    for observation in story(letters):
        before = machine.standing
        machine.observe(observation, math.inf)
        standing = machine.standing
        group = POLICIES["monitor"][observation.outcome]
        if UNKNOWN not in (before.state, standing.state):
            change = badness[standing.state] - badness[before.state]
            assert not (group is Group.PROVIDER_FAULT and change < 0)
            assert not (group is Group.OK and change > 0)
        if group is Group.PROVIDER_FAULT:
            assert not (before.state is UNKNOWN and standing.state in (OPERATIONAL, DEGRADED))
        if group is Group.OK:
            assert standing.state is not UNKNOWN
        assert (standing.cause is None) == (standing.state in (UNKNOWN, OPERATIONAL))
        assert (standing.since is None) == (standing.state is UNKNOWN)
        if standing.state is OPERATIONAL is not before.state:
            assert standing.since is not None
            assert standing.since > since
            since = standing.since
    run = list(itertools.takewhile(lambda letter: letter in "FC", reversed([one for one in letters if one in "oFCt"])))
    if len(run) >= rule.down_of:
        assert machine.standing.state is DOWN


def rechecks_of(letters: str, rule: StateRule = RULE) -> list[int]:
    """How many rechecks follow each scheduled probe, if every recheck fails as its probe did."""
    machine = StateMachine(rule, "monitor")
    found = []
    for observation in story(letters):
        machine.observe(observation, FORGET)
        count = 0
        while machine.wants_recheck(observation):
            count += 1
            observation = probe(
                observation.started_at + 3, observation.outcome, due_at=observation.due_at, recheck=count
            )
            machine.observe(observation, FORGET)
        found.append(count)
    return found


def test_a_failure_is_rechecked_at_most_until_it_is_settled_and_never_when_down() -> None:
    assert rechecks_of("oF") == [0, 2]
    assert rechecks_of("FF") == [2, 0]
    assert rechecks_of("otapm") == [0] * 5
    assert rechecks_of("oF", StateRule(down_failures=1, down_of=1)) == [0, 0]
    assert rechecks_of("ooooF", StateRule(down_failures=5, down_of=5)) == [0, 0, 0, 0, 4]


def test_a_recheck_that_succeeds_ends_the_rechecks() -> None:
    machine = machine_of("oF")
    ok = probe(NOW + 63, due_at=NOW + 60, recheck=1)
    machine.observe(ok, FORGET)
    assert not machine.wants_recheck(ok)
    assert machine.standing.state is OPERATIONAL


def test_a_quick_outage_is_down_within_two_rechecks_since_its_first_failure() -> None:
    machine = machine_of("ooo")
    for recheck in range(3):
        failed = probe(NOW + 180 + 3 * recheck, Outcome.CONNECT, due_at=NOW + 180, recheck=recheck)
        machine.observe(failed, FORGET)
    assert (machine.standing.state, machine.standing.since) == (DOWN, NOW + 180)


def test_a_clock_that_steps_back_or_forth_does_not_confuse_the_state() -> None:
    machine = machine_of("oooo")
    for number in range(3):
        due_at = NOW + 240 + 60 * number
        machine.observe(probe(due_at - 3600, Outcome.CONNECT, due_at=due_at), FORGET)
    assert (machine.standing.state, machine.standing.since) == (DOWN, NOW + 240 - 3600)
    for number in range(2):
        due_at = NOW + 420 + 60 * number
        machine.observe(probe(due_at + 86400, due_at=due_at), FORGET)
    assert machine.standing.state is OPERATIONAL


def test_a_reloaded_rule_judges_from_the_next_outcome_on() -> None:
    machine = machine_of("oF")
    machine.configure(StateRule(down_failures=2, down_of=2), "monitor")
    assert machine.standing.state is OPERATIONAL
    machine.observe(probe(NOW + 120, Outcome.CONNECT), FORGET)
    assert machine.standing.state is DOWN


def transitions_of(letters: str) -> list[Transition]:
    machine = StateMachine(RULE, "monitor")
    found = []
    for observation in story(letters):
        before = machine.standing
        machine.observe(observation, FORGET)
        now_is = machine.standing
        if (before.state, before.cause) != (now_is.state, now_is.cause):
            at = observation.started_at
            since = at if now_is.since is None else now_is.since
            found.append(Transition(ONE.id, HERE, before.state, now_is.state, now_is.cause, since, at, now_is.detail))
    return found


def events(
    letters: str, ledger: IncidentLedger | None = None
) -> list[tuple[str, str, str | None, float, float | None]]:
    ledger = ledger or IncidentLedger()
    return summaries(event for transition in transitions_of(letters) for event in ledger.apply(transition))


def summaries(found: Iterable[IncidentEvent]) -> list[tuple[str, str, str | None, float, float | None]]:
    return [
        (
            event.change,
            event.incident.state.value,
            event.incident.cause,
            (event.incident.started_at - NOW) / 60,
            None if event.incident.ended_at is None else (event.incident.ended_at - NOW) / 60,
        )
        for event in found
    ]


def test_an_outage_is_one_incident_from_its_first_failure_to_its_first_success() -> None:
    assert events("oooFFFFFoo") == [
        ("opened", "degraded", "server_error", 3, None),
        ("changed", "down", "server_error", 3, None),
        ("closed", "down", "server_error", 3, 8),
    ]


def test_a_blip_is_no_incident() -> None:
    assert events("ooFoooFooo") == []


def test_an_incident_that_changes_its_state_ends_and_the_next_begins() -> None:
    assert events("oottttFFFoo") == [
        ("opened", "degraded", "throttled", 2, None),
        ("changed", "degraded", "server_error", 2, None),
        ("closed", "degraded", "server_error", 2, 6),
        ("opened", "down", "server_error", 6, None),
        ("closed", "down", "server_error", 6, 9),
    ]
    assert events("FFFtttt")[1:] == [
        ("closed", "down", "server_error", 0, 3),
        ("opened", "degraded", "throttled", 3, None),
    ]


def test_an_incident_keeps_its_start_when_its_cause_changes() -> None:
    assert events("FFFCCC")[1:] == [("changed", "down", "connect", 0, None)]


def test_unknown_ends_no_incident() -> None:
    ledger = IncidentLedger()
    events("FFF", ledger)
    forgotten = Transition(ONE.id, HERE, DOWN, UNKNOWN, None, NOW + 900, NOW + 900)
    assert ledger.apply(forgotten) == ()
    assert len(ledger.still_open) == 1
    again = Transition(ONE.id, HERE, UNKNOWN, DOWN, "server_error", NOW + 5000, NOW + 5100)
    assert ledger.apply(again) == ()
    well = Transition(ONE.id, HERE, DOWN, OPERATIONAL, None, NOW + 6000, NOW + 6000)
    assert summaries(ledger.apply(well)) == [("closed", "down", "server_error", 0, 100)]
    assert ledger.apply(well) == ()


def test_a_restart_opens_no_incident_twice_and_closes_what_ended_meanwhile() -> None:
    still_open = Incident(ONE.id, HERE, DOWN, "connect", NOW)
    same = Transition(ONE.id, HERE, DOWN, DOWN, "connect", NOW, NOW)
    assert IncidentLedger([still_open]).apply(same) == ()
    well = Transition(ONE.id, HERE, OPERATIONAL, OPERATIONAL, None, NOW + 600, NOW + 600)
    assert summaries(IncidentLedger([still_open]).apply(well)) == [("closed", "down", "connect", 0, 10)]


def test_an_incident_never_ends_before_it_began() -> None:
    still_open = Incident(ONE.id, HERE, DOWN, "connect", NOW)
    well = Transition(ONE.id, HERE, DOWN, OPERATIONAL, None, NOW - 60, NOW - 60)
    assert events_of(still_open, well)[0].incident.ended_at == NOW


def test_incidents_of_endpoints_that_are_no_longer_watched_are_closed() -> None:
    mine = Incident(ONE.id, HERE, DOWN, "connect", NOW)
    elsewhere = Incident(ONE.id, "there", DOWN, "connect", NOW)
    kept = Incident("author/kept@acme", HERE, DOWN, "connect", NOW)
    ledger = IncidentLedger([mine, elsewhere, kept])
    watched = {("author/kept@acme", HERE), (ONE.id, "there")}
    closed = ledger.close_unwatched(lambda *place: place in watched, NOW + 60)
    assert [event.incident.key for event in closed] == [mine.key]
    assert set(ledger.still_open) == {(ONE.id, "there"), ("author/kept@acme", HERE)}


def test_of_several_that_a_former_process_left_open_the_newest_lasts() -> None:
    first, second, third = (Incident(ONE.id, HERE, DOWN, "connect", NOW + start) for start in (0, 100, 200))
    other = Incident("author/other@acme", HERE, DOWN, "reset", NOW)
    ledger = IncidentLedger()
    closed = ledger.take_up([third, second, other, first])
    assert [(event.change, event.incident.started_at - NOW, event.incident.ended_at) for event in closed] == [
        ("closed", 0, NOW + 100),
        ("closed", 100, NOW + 200),
    ]
    assert set(ledger.still_open.values()) == {third, other}


@given(st.text("oFCta", max_size=60))
def test_incidents_never_overlap_and_exactly_the_last_may_be_open(letters: str) -> None:
    ledger = IncidentLedger()
    incidents: dict[tuple[str, str, float], Incident] = {}
    for transition in transitions_of(letters):
        for event in ledger.apply(transition):
            assert (event.change == "opened") == (event.incident.key not in incidents)
            incidents[event.incident.key] = event.incident
    in_order = sorted(incidents.values(), key=lambda one: one.started_at)
    for earlier, later in itertools.pairwise(in_order):
        assert earlier.ended_at is not None
        assert earlier.started_at <= earlier.ended_at <= later.started_at
    is_bad = after(letters).state in (DEGRADED, DOWN)
    assert len(ledger.still_open) == is_bad
    assert [one for one in in_order if one.ended_at is None] == list(ledger.still_open.values())
