"""What a monitor has to do with the others of its database. Alone with a file: nothing, at no cost."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.observation import Observation, ObservationKey
from monitor.scheduling.claims import EVERYTHING, Claims
from monitor.scheduling.dispatcher import Dispatcher
from monitor.scheduling.shards import SHARDS
from monitor.storage.database import Job
from monitor.storage.incidents import Fence
from monitor.storage.writer import Writer
from monitor.web.ports import Check

T = TypeVar("T")

_EVERY_SHARD = frozenset(range(SHARDS))


@dataclass(frozen=True, slots=True)
class Hands:
    """What it works with. `take_in(rows, shown)` gets others' rows, of which some are shown already; `on_taken(shards)`
    is called for shards that are ours from now on."""

    dispatcher: Dispatcher
    writer: Writer
    take_in: Callable[[Sequence[Observation], Container[ObservationKey]], None]
    on_taken: Callable[[frozenset[int]], None]


class Sharing:
    """As it is alone. Also `storage.others.Others`. Use from one loop.

    `must_relive`: another monitor has rewritten history, windows are renewed, and states are still to follow. Who sees
    to that takes it back."""

    must_relive = False

    @property
    def claims(self) -> Claims:
        return EVERYTHING

    @property
    def is_first(self) -> bool:
        """Whether chores that one of all monitors is to do are ours."""
        return True

    @property
    def must_renew(self) -> bool:
        return False

    def use(self, hands: Hands) -> None:
        """To be called once, before anything else."""

    def tells_of(self, endpoint: str, location: str) -> bool:
        """Whether what is found about an endpoint is ours to write down: an incident is written by one monitor."""
        return True

    def fence_of(self, endpoint: str) -> Fence | None:
        """By what it is told, when it comes to be written, whether it still is; None where it always is."""
        return None

    @property
    def held(self) -> Set[int]:
        """The shards whose endpoints are ours."""
        return _EVERY_SHARD

    @property
    def life(self) -> int | None:
        """The number of this monitor's life, as others know it."""
        return None

    @property
    def is_alone(self) -> bool:
        """Whether no other monitor of this location lived when this one started."""
        return True

    def rewriting(self, job: Job[T]) -> Job[T]:
        """`job`, which rewrites history, so that nobody else writes meanwhile and all hear of it."""
        return job

    # --- the whole picture

    def note_own(self, rows: Sequence[Observation]) -> None:
        """What we have just committed."""

    def note_shown(self, rows: Sequence[Observation]) -> None:
        """What is on the spill and shown already."""

    async def begin_following(self) -> None:
        """Follow from the view on that the windows are restored from: in a job of the writer's."""

    async def catch_up(self) -> None:
        """See Others."""

    def closes_first(self) -> bool:
        return True

    async def before_closing(self, connection: AsyncConnection) -> None:
        """See Others."""

    def renewed(self) -> None:
        """See Others."""

    # --- life

    async def start(self) -> None:
        """Live, take a share, and follow the others."""

    async def give_back(self) -> None:
        """Before the drain: what falls due from now on is others'. Never raises."""

    async def leave(self) -> None:
        """After the last row is written. Never raises."""

    def checks(self) -> Sequence[Check]:
        """Notes for /readyz."""
        return ()
