"""Whose failure it is, by evidence alone."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.outcome import Outcome
from monitor.probing.report import Journey
from monitor.suspicion.judge import (
    SETTLE_SECONDS,
    Cause,
    Evidence,
    Failure,
    Outage,
    Place,
    Reach,
    Sign,
    Verdict,
    failure_of,
    judge,
)

HOSTS = st.sampled_from(["a.example", "b.example", "c.example", "d.example"])
ADDRESSES = st.frozensets(
    st.sampled_from(["127.0.0.1", "127.0.0.2", "10.0.0.1", "fd00::1", "1.1.1.1", "8.8.8.8", "2606:4700::1111"]),
    max_size=3,
)
PLACES = st.builds(Place, HOSTS, ADDRESSES)
TIMES = st.floats(0.0, 100.0)


@st.composite
def failures(draw: st.DrawFn) -> Failure:
    quiet_from, ended_at = sorted((draw(TIMES), draw(TIMES)))
    return Failure(draw(PLACES), quiet_from, ended_at, draw(st.booleans()), draw(st.booleans()))


EVIDENCE = st.builds(
    Evidence,
    has_route=st.booleans(),
    signs=st.lists(st.builds(Sign, PLACES, TIMES), max_size=4).map(tuple),
    found_names=st.lists(st.tuples(HOSTS, TIMES), max_size=3).map(tuple),
    is_resolver_alive=st.sampled_from([None, True, False]),
    silent=st.lists(PLACES, max_size=4).map(tuple),
    is_over=st.booleans(),
)
FAR = Place("far.example", frozenset({"1.1.1.1"}))
OTHER = Place("other.example", frozenset({"8.8.8.8"}))
REFUSED = Failure(FAR, 10.0, 10.1)
SILENCE = Failure(FAR, 10.0, 20.0)
UNFOUND = Failure(Place("far.example"), 10.0, 15.0, is_unresolved=True)
OURS = Verdict(Cause.NETWORK, "the one other place that was well does not answer")


# ---- what always holds


@given(failures(), EVIDENCE)
def test_when_all_is_asked_there_is_a_verdict(failure: Failure, evidence: Evidence) -> None:
    assert judge(failure, replace(evidence, is_over=True)) is not None


@given(failures(), EVIDENCE)
def test_nothing_is_ours_without_proof_of_absence(failure: Failure, evidence: Evidence) -> None:
    verdict = judge(failure, evidence)
    if verdict is not None and verdict.is_ours:
        assert verdict.reason
        assert (
            not evidence.has_route
            or (failure.is_unresolved and evidence.is_resolver_alive is False)
            or any(not one.is_related_to(failure.place) for one in evidence.silent)
        )


@given(failures(), EVIDENCE, PLACES)
def test_life_elsewhere_acquits_our_network_whatever_else_is_silent(
    failure: Failure, evidence: Evidence, place: Place
) -> None:
    alive = replace(evidence, has_route=True, signs=(*evidence.signs, Sign(place, failure.ended_at + SETTLE_SECONDS)))
    verdict = judge(replace(failure, is_unresolved=False), alive)
    if not place.is_related_to(failure.place) and place.reach >= failure.place.reach:
        assert verdict == Verdict(None)


@given(failures(), EVIDENCE)
def test_more_evidence_never_takes_back_an_acquittal(failure: Failure, evidence: Evidence) -> None:
    verdict = judge(failure, evidence)
    if verdict == Verdict(None):
        assert judge(failure, replace(evidence, is_over=True)) == verdict


@given(PLACES, PLACES)
def test_being_related_is_mutual(one: Place, other: Place) -> None:
    assert one.is_related_to(other) == other.is_related_to(one)
    assert one.is_related_to(one)


@given(failures(), st.sampled_from(Cause), TIMES, TIMES, st.booleans())
def test_an_outage_takes_nothing_that_lies_wholly_after_or_before_it(
    failure: Failure, cause: Cause, one: float, other: float, is_partial: bool
) -> None:
    since, until = sorted((one, other))
    outage = Outage(cause, "", since, since, Reach.LOOPBACK, until, failure.place.addresses, is_partial)
    if failure.quiet_from > until or failure.ended_at < since:
        assert not outage.covers(failure)
    elif cause is Cause.NETWORK:
        assert outage.covers(failure)


# ---- the single rules


@pytest.mark.parametrize(
    ("at", "verdict"),
    [(10.0, None), (10.1, None), (10.15, Verdict(None)), (12.0, Verdict(None))],
    ids=["before", "in the same moment", "just after", "after"],
)
def test_a_quick_failure_is_not_acquitted_by_life_before_it(at: float, verdict: Verdict | None) -> None:
    """The route may have gone in between: a busy fleet sees life up to the very last moment."""
    assert judge(REFUSED, Evidence(signs=[Sign(OTHER, at)])) == verdict


@pytest.mark.parametrize(("at", "verdict"), [(11.0, None), (18.9, None), (19.2, Verdict(None)), (21.0, Verdict(None))])
def test_a_long_silence_is_acquitted_by_life_near_its_end(at: float, verdict: Verdict | None) -> None:
    assert judge(SILENCE, Evidence(signs=[Sign(OTHER, at)])) == verdict


def test_life_at_the_same_address_is_no_early_acquittal_but_no_network_is_gone_that_carries_it() -> None:
    neighbour = Place("neighbour.example", FAR.addresses)
    evidence = Evidence(signs=[Sign(neighbour, 10.2)], silent=(OTHER,))
    assert judge(REFUSED, evidence) is None
    assert judge(REFUSED, replace(evidence, is_over=True)) == Verdict(None)


def test_what_is_near_says_nothing_for_what_is_far() -> None:
    at_home = Place("home.example", frozenset({"127.0.0.1"}))
    evidence = Evidence(signs=[Sign(at_home, 10.2)], silent=(OTHER,), is_over=True)
    assert judge(REFUSED, evidence) == OURS


def test_what_is_far_is_no_witness_against_what_is_near() -> None:
    at_home = Failure(Place("home.example", frozenset({"127.0.0.1"})), 10.0, 10.1)
    assert judge(at_home, Evidence(silent=(OTHER,), is_over=True)) == Verdict(None)


def test_with_nobody_to_ask_it_is_the_providers() -> None:
    assert judge(REFUSED, Evidence(is_over=True)) == Verdict(None)
    assert judge(REFUSED, Evidence(silent=(FAR,), is_over=True)) == Verdict(None), "it cannot be its own witness"


def test_a_missing_route_is_ours_whoever_lives() -> None:
    verdict = judge(REFUSED, Evidence(has_route=False, signs=[Sign(OTHER, 10.2)]))
    assert verdict is not None
    assert verdict.cause is Cause.ROUTE


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (Evidence(is_resolver_alive=False, is_over=True), Cause.RESOLVER),
        (Evidence(is_resolver_alive=False, signs=[Sign(OTHER, 15.0)]), Cause.RESOLVER),
        (Evidence(is_resolver_alive=False, silent=(OTHER,), is_over=True), Cause.NETWORK),
        (Evidence(is_resolver_alive=True, silent=(OTHER,), is_over=True), Cause.NETWORK),
        (Evidence(is_resolver_alive=True, is_over=True), None),
        (Evidence(is_resolver_alive=True, signs=[Sign(OTHER, 15.0)]), None),
        (Evidence(found_names=[("other.example", 15.0)], signs=[Sign(OTHER, 15.0)]), None),
        (Evidence(found_names=[("other.example", 15.0)], is_resolver_alive=False, is_over=True), None),
    ],
)
def test_a_name_that_is_not_found_is_ours_only_if_the_resolver_or_the_network_is_dead(
    evidence: Evidence, cause: Cause | None
) -> None:
    verdict = judge(UNFOUND, evidence)
    assert verdict is not None
    assert verdict.cause is cause


def test_life_alone_does_not_settle_a_name_that_is_not_found() -> None:
    assert judge(UNFOUND, Evidence(signs=[Sign(OTHER, 15.0)])) is None


@pytest.mark.parametrize(
    ("cause", "failure", "is_covered"),
    [
        (Cause.RESOLVER, UNFOUND, True),
        (Cause.RESOLVER, SILENCE, False),
        (Cause.NETWORK, SILENCE, True),
        (Cause.NETWORK, Failure(Place("home.example", frozenset({"127.0.0.1"})), 10.0, 20.0), False),
        (Cause.ROUTE, SILENCE, True),
    ],
)
def test_an_outage_explains_its_own_kind_of_failure(cause: Cause, failure: Failure, is_covered: bool) -> None:
    outage = Outage(cause, "", 12.0, 12.0, Reach.WORLD, until=14.0, addresses=OTHER.addresses)
    assert outage.covers(failure) is is_covered


def test_a_route_that_was_missing_to_some_explains_only_theirs() -> None:
    outage = Outage(Cause.ROUTE, "", 12.0, 12.0, Reach.WORLD, 14.0, OTHER.addresses, is_partial=True)
    assert not outage.covers(SILENCE)
    assert outage.covers(replace(SILENCE, place=OTHER))


# ---- which failures may be ours


def journey(**stamps: float) -> Journey:
    return Journey("far.example", 443, **({"begun_at": 10.0, "ended_at": 30.0} | stamps))


@pytest.mark.parametrize("outcome", [Outcome.CONNECT, Outcome.TLS, Outcome.RESET, Outcome.TIMEOUT_CONNECT])
def test_before_the_connection_is_ready_the_whole_attempt_was_quiet(outcome: Outcome) -> None:
    assert failure_of(outcome, journey(resolved_at=10.5), FAR.addresses) == Failure(FAR, 10.0, 30.0)


def test_who_came_no_further_than_its_name_is_unresolved() -> None:
    for outcome in (Outcome.DNS, Outcome.TIMEOUT_CONNECT):
        failure = failure_of(outcome, journey(), frozenset())
        assert failure is not None
        assert failure.is_unresolved
    numeric = failure_of(
        Outcome.TIMEOUT_CONNECT, msgspec.structs.replace(journey(), host="1.1.1.1"), frozenset({"1.1.1.1"})
    )
    assert numeric is not None
    assert not numeric.is_unresolved


@pytest.mark.parametrize(
    "outcome", [Outcome.RESET, Outcome.TIMEOUT_FIRST_TOKEN, Outcome.TIMEOUT_IDLE, Outcome.TIMEOUT_TOTAL]
)
def test_a_stream_was_quiet_since_it_was_last_heard(outcome: Outcome) -> None:
    after = Failure(FAR, 15.0, 30.0, was_connected=True)
    assert failure_of(outcome, journey(connected_at=11.0, heard_at=15.0), FAR.addresses) == after
    assert failure_of(outcome, journey(connected_at=15.0), FAR.addresses) == after


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT_FIRST_TOKEN, Outcome.TIMEOUT_IDLE, Outcome.TIMEOUT_TOTAL])
def test_bytes_up_to_the_deadline_say_that_the_line_was_fine(outcome: Outcome) -> None:
    assert failure_of(outcome, journey(connected_at=11.0, heard_at=29.95), FAR.addresses) is None


@pytest.mark.parametrize(
    "outcome",
    [one for one in Outcome if one is not Outcome.RESET and not one.name.startswith("TIMEOUT_")],
)
def test_whatever_the_provider_said_is_its_own(outcome: Outcome) -> None:
    assert failure_of(outcome, journey(connected_at=11.0, heard_at=15.0), FAR.addresses) is None


@pytest.mark.parametrize(
    ("addresses", "reach"),
    [
        ((), Reach.WORLD),
        (("127.0.0.9",), Reach.LOOPBACK),
        (("::1", "127.0.0.1"), Reach.LOOPBACK),
        (("192.168.1.4",), Reach.PRIVATE),
        (("100.64.0.1",), Reach.PRIVATE),
        (("fe80::1",), Reach.PRIVATE),
        (("10.0.0.1", "1.1.1.1"), Reach.WORLD),
        (("not an address",), Reach.WORLD),
    ],
)
def test_how_far_a_place_is(addresses: tuple[str, ...], reach: Reach) -> None:
    assert Place("x", frozenset(addresses)).reach is reach
