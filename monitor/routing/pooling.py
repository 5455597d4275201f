"""One picture of an endpoint that is watched from several locations. Pure.

Figures are pooled from counts by whoever holds them (`pool`); never averaged from ratios.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from monitor.catalog.model import Endpoint
from monitor.health.state import State
from monitor.health.view import EndpointView, KindView, WindowFigures
from monitor.outcome import Outcome

# (endpoint ids, location or None for all, window) -> figures with the same quantiles as a view's.
Pool = Callable[[Sequence[str], str | None, str], WindowFigures]

# The kinds of probe other than chat of an endpoint, over all locations.
PoolKinds = Callable[[Endpoint], Mapping[str, KindView]]


def _no_kinds(endpoint: Endpoint) -> Mapping[str, KindView]:
    return {}


_WORST_FIRST = (State.DOWN, State.DEGRADED, State.OPERATIONAL)


def pooled_state(states: Iterable[State]) -> State:
    """Down only if every location that knows says so; where they differ, degraded: it fails for some callers."""
    known = set(states) - {State.UNKNOWN}
    if not known:
        return State.UNKNOWN
    return known.pop() if len(known) == 1 else State.DEGRADED


def pooled_view(views: Sequence[EndpointView], pool: Pool, pool_kinds: PoolKinds = _no_kinds) -> EndpointView:
    """The views of one endpoint, one per location, as one with location "". A single view is handed back as it is.
    Figures are of all of them; what holds at this moment is of those that are watched."""
    if len(views) == 1:
        return views[0]
    first = views[0]
    watched = [view for view in views if view.is_watched] or views
    told = next((view for view in watched if view.cause is not None), watched[0])
    worst = next((view for state in _WORST_FIRST for view in watched if view.state is state), told)
    is_usable = any(view.usable for view in watched)
    probes: Counter[Outcome] = Counter()
    for view in views:
        probes.update(view.probes_total)
    return replace(
        first,
        location="",
        state=pooled_state(view.state for view in watched),
        cause=worst.cause,
        state_since=worst.state_since,
        detail=worst.detail,
        usable=is_usable,
        unusable_cause=None if is_usable else watched[0].unusable_cause,
        interval_seconds=min(view.interval_seconds for view in watched),
        last_probe_at=_latest(view.last_probe_at for view in views),
        last_success_at=_latest(view.last_success_at for view in views),
        windows={window: pool((first.endpoint.id,), None, window) for window in first.windows},
        probes_total=probes,
        cost_usd_total=sum(view.cost_usd_total for view in views),
        is_watched=any(view.is_watched for view in views),
        kinds=pool_kinds(first.endpoint),
        version=max(view.version for view in views),
    )


def _latest(stamps: Iterable[float | None]) -> float | None:
    return max((stamp for stamp in stamps if stamp is not None), default=None)
