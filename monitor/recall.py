"""Whether an endpoint worked before: the board says so, and until it is restored the database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
from sqlalchemy import select

from monitor.catalog.model import Endpoint
from monitor.catalog.target import target_of
from monitor.health.board import Board
from monitor.observation import Observation
from monitor.outcome import Outcome
from monitor.probing.report import ProbeReport, Turn
from monitor.probing.told import UNREADABLE, read_told
from monitor.slot import Cadence, Era
from monitor.storage import schema
from monitor.storage.database import Database
from monitor.storage.eras import read_eras
from monitor.storage.errors import StorageError
from monitor.storage.past_successes import PastSuccesses


class Recall:
    """`board`: once it is restored. A probe that began before is judged as if nothing had ever worked, and again with
    what the database says where that matters; where it says nothing, nobody is blamed. Use from one loop."""

    def __init__(self, database: Database) -> None:
        self.board: Board | None = None
        self._database = database

    def worked_before(self, endpoint: Endpoint) -> bool:
        return self.board is not None and self.board.worked_before(endpoint)

    def around(self, probe: Callable[[Turn], Awaitable[ProbeReport]]) -> Callable[[Turn], Awaitable[ProbeReport]]:
        """`probe`, with its reports judged again."""

        def recalling(turn: Turn) -> Awaitable[ProbeReport]:
            return probe(turn) if self.board is not None else self._recalled(probe, turn)

        return recalling

    async def _recalled(self, probe: Callable[[Turn], Awaitable[ProbeReport]], turn: Turn) -> ProbeReport:
        report = await probe(turn)
        if_worked = _if_worked(report.observation)
        if if_worked is None or not await self._had_worked(turn.endpoint, report.observation):
            return report
        judged = msgspec.structs.replace(report.observation, outcome=if_worked)
        return msgspec.structs.replace(report, observation=judged)

    async def _had_worked(self, endpoint: Endpoint, observation: Observation) -> bool:
        if self.board is not None:
            return self.board.worked_before(endpoint)
        at, location = observation.started_at, observation.location
        try:
            async with self._database.read() as connection:
                named = select(schema.endpoints.c.id).where(schema.endpoints.c.name == endpoint.id)
                id_ = (await connection.execute(named)).scalar()
                if id_ is None:
                    return False
                eras = await read_eras(connection, id_)
            # What is configured now may not be on record yet.
            known = eras.get((endpoint.id, location), ())
            before = [each if each.until is not None else replace(each, until=at) for each in known]
            target = target_of(endpoint)
            now = Era(at, None, Cadence.of(endpoint.id, endpoint.interval_seconds), target)
            eras[endpoint.id, location] = (*before, now)
            past = PastSuccesses(self._database, eras, {endpoint.id: target}, at, lambda _: endpoint.kind)
            return await past.worked_before(endpoint.id, location, at)
        except StorageError:
            return False


def _if_worked(observation: Observation) -> Outcome | None:
    """The class of an endpoint that had worked, where that is another: see `probing/classifier.py`."""
    if observation.outcome is Outcome.UNKNOWN_MODEL:
        return Outcome.GONE
    if observation.outcome is Outcome.BAD_REQUEST and read_told(observation.told) == UNREADABLE:
        return Outcome.MALFORMED
    return None
