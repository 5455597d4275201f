"""The snapshot of GET /api/v1/routing: made once for all who poll, and written while it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from monitor.clock import Clock
from monitor.health.view import EndpointView
from monitor.routing.snapshot import SNAPSHOT_END, Part, joined
from monitor.web.sending import Gzipped

# It is made anew after this long even if nothing has changed: a router shall see that we are alive.
SNAPSHOT_SECONDS = 5.0
# One of so many endpoints stays the newest for a second, though figures change: of 10,000 each costs a tenth of a
# second of CPU, and whoever polls more often is told 304.
_VIEWS_A_SECOND = 5000
# Kinds of probe of endpoints that are written at once, chat one of them: a millisecond and a half if all have changed.
# The first are on their way sooner.
_PARTS, _FIRST_PARTS = 48, 4


class Document:
    """A snapshot of one moment, which `etag` names: written while it is read, gzipped once for all who take it so."""

    def __init__(
        self,
        head: bytes,
        views: Sequence[EndpointView],
        part_of: Callable[[EndpointView], Part],
        now: float,
        etag: str,
        clock: Clock,
    ) -> None:
        self.etag = etag
        self._head, self._views, self._part_of, self._now = head, views, part_of, now
        self._clock = clock
        self._since = clock.monotonic()
        self._keep_seconds = len(views) / _VIEWS_A_SECOND
        self._gzipped: Gzipped | None = None
        self._is_past = False

    def chunks(self) -> Iterator[bytes]:
        before = self._head
        for some in _at_once(self._views):
            yield before + joined(map(self._part_of, some), self._now)
            before = b","
        yield SNAPSHOT_END if self._views else before + SNAPSHOT_END

    @property
    def gzipped(self) -> Gzipped:
        if self._gzipped is None or self._gzipped.is_broken:
            self._gzipped = Gzipped(self.chunks(), self._clock)
        return self._gzipped

    def pass_by(self) -> None:
        """The picture that it shows is no more the newest."""
        self._is_past = True

    @property
    def is_fresh(self) -> bool:
        """Whether it may still be handed out."""
        return self._clock.monotonic() - self._since < (self._keep_seconds if self._is_past else SNAPSHOT_SECONDS)


def _at_once(views: Iterable[EndpointView]) -> Iterator[list[EndpointView]]:
    some: list[EndpointView] = []
    work, most = 0, _FIRST_PARTS
    for view in views:
        some.append(view)
        work += 1 + len(view.kinds)
        if work >= most:
            yield some
            some, work, most = [], 0, _PARTS
    if some:
        yield some
