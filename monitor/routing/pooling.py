"""One picture of an endpoint that is watched from several locations. Pure.

Figures are pooled from counts by whoever holds them (`pool`), as they were measured; never averaged from ratios. What
holds at this moment is told by the locations that are watched and still tell; of a suspect one (`health/vantage.py`)
the word against a provider is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from monitor.catalog.model import Endpoint
from monitor.health.board import Board
from monitor.health.state import State
from monitor.health.vantage import is_doubted
from monitor.health.view import EndpointView, KindView, Vantage, WindowFigures
from monitor.outcome import Outcome

# (endpoint ids, location or None for all, window) -> figures with the same quantiles as a view's.
Pool = Callable[[Sequence[str], str | None, str], WindowFigures]

# The kinds of probe other than chat of an endpoint, over all locations.
PoolKinds = Callable[[Endpoint], Mapping[str, KindView]]


def _no_kinds(endpoint: Endpoint) -> Mapping[str, KindView]:
    return {}


PARTIAL = "partial"  # the cause of a pooled state: down at some locations, up at others
_MOST_NAMED = 8
_WORST_FIRST = (State.DOWN, State.DEGRADED, State.OPERATIONAL)


def pooled_state(states: Iterable[State]) -> State:
    """Down only if every location that knows says so; where they differ, degraded: it fails for some callers."""
    known = set(states) - {State.UNKNOWN}
    if not known:
        return State.UNKNOWN
    return known.pop() if len(known) == 1 else State.DEGRADED


def pooled_view(views: Sequence[EndpointView], pool: Pool, pool_kinds: PoolKinds = _no_kinds) -> EndpointView:
    """The views of one endpoint, one per location, as one with location "". A single one is handed back as it is, if it
    is to be believed. Figures are of all of them."""
    first = views[0]
    if len(views) == 1 and not is_doubted(first):
        return first
    watched = [view for view in views if view.is_watched] or views
    present = [view for view in watched if view.vantage is not Vantage.STALE] or watched
    heard = [view for view in present if not is_doubted(view)]
    is_usable = any(view.usable for view in present)
    probes: Counter[Outcome] = Counter()
    for view in views:
        probes.update(view.probes_total)
    state, cause, since, detail = _standing(heard)
    return replace(
        first,
        location="",
        state=state,
        cause=cause,
        state_since=since,
        detail=detail,
        usable=is_usable,
        unusable_cause=None if is_usable else present[0].unusable_cause,
        interval_seconds=min(view.interval_seconds for view in present),
        last_probe_at=_latest(view.last_probe_at for view in views),
        last_success_at=_latest(view.last_success_at for view in views),
        windows={window: pool((first.endpoint.id,), None, window) for window in first.windows},
        probes_total=probes,
        cost_usd_total=sum(view.cost_usd_total for view in views),
        is_watched=any(view.is_watched for view in views),
        kinds=pool_kinds(first.endpoint),
        version=max(view.version for view in views),
        vantage=Vantage.SOUND if len(heard) == len(present) else Vantage.SUSPECT,
        places={view.location: view.state for view in present},
    )


def pooled_views(board: Board) -> list[EndpointView]:
    """One of every endpoint, over all locations, in one go."""

    def pool(endpoints: Sequence[str], location: str | None, window: str) -> WindowFigures:
        quantiles = board.quantiles if window in board.performance_windows else ()
        return board.figures(endpoints, location, window, quantiles)

    together: dict[str, list[EndpointView]] = {}
    for view in board.views():
        together.setdefault(view.endpoint.id, []).append(view)
    return [pooled_view(views, pool, board.pooled_kinds) for views in together.values()]


def _standing(views: Sequence[EndpointView]) -> tuple[State, str | None, float | None, str | None]:
    """State, cause, since when and detail."""
    if not views:
        return State.UNKNOWN, None, None, None
    told = next((view for view in views if view.cause is not None), views[0])
    worst = next((view for state in _WORST_FIRST for view in views if view.state is state), told)
    state = pooled_state(view.state for view in views)
    if worst.state is not State.DOWN or state is State.DOWN:
        return state, worst.cause, worst.state_since, worst.detail
    down = [view for view in views if view.state is State.DOWN]
    since = min((view.state_since for view in down if view.state_since is not None), default=None)
    return state, PARTIAL, since, _partial_text(down, views)


def _partial_text(down: Sequence[EndpointView], views: Sequence[EndpointView]) -> str:
    """`down at frankfurt (connect), up at virginia, tokyo`; degraded is up, as in `llm_endpoint_up`."""
    failing = [f"{view.location} ({view.cause})" if view.cause else view.location for view in down]
    up = [view.location for view in views if view.state in (State.OPERATIONAL, State.DEGRADED)]
    return f"down at {_named(failing)}, up at {_named(up)}"


def _named(names: Sequence[str]) -> str:
    text = ", ".join(names[:_MOST_NAMED])
    return text if len(names) <= _MOST_NAMED else f"{text} and {len(names) - _MOST_NAMED} more"


def _latest(stamps: Iterable[float | None]) -> float | None:
    return max((stamp for stamp in stamps if stamp is not None), default=None)
