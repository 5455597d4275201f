"""Rolling windows are what SQL over the raw rows says, whatever comes when, and after a restart at any instant."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from health.health_stage import endpoint, figures_of, probe
from storage_samples import DAY, HOUR, MIDNIGHT, on_a_file, refusing_writes
from windows_stage import (
    DAY_US,
    ENDPOINTS,
    FIGURES,
    HOUR_US,
    LOCATIONS,
    LONG,
    MODELS,
    SHORT,
    US,
    House,
    living,
    settings_with,
    shown_by,
)

from monitor.health.rows import TallyRows
from monitor.observation import Observation
from monitor.outcome import OUTCOMES, Outcome
from monitor.settings import DatabaseSettings, RetentionSettings, Settings
from monitor.slot import Cadence
from monitor.storage import spill
from monitor.storage.errors import StorageError
from monitor.storage.rollups import CLOSE_AFTER_SECONDS

NIGHT = MIDNIGHT * US
EVENING = NIGHT - 120 * US
SPANS = FIGURES[:2]  # in seconds; the others are speeds


class Story:
    """One history, told by a seed: what comes in, how time goes on, and how the monitor ends and begins again."""

    def __init__(self, house: House, seed: int) -> None:
        self.house = house
        self.chance = random.Random(seed)
        self.slots = 0
        self.keys: set[tuple[Any, ...]] = set()
        self.last: list[Observation] = []
        self.steps: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (
            self.rows_come,
            self.rows_come,
            self.rows_come,
            self.time_passes,
            self.time_passes,
            self.an_edge_comes,
            self.an_edge_comes,
            self.a_slot_falls_due,
            self.hours_turn,
            self.hours_turn_in_traffic,
            self.restart,
            self.restart,
            self.reload,
            self.outage,
            self.prune,
            self.look,
        )

    async def play(self, steps: int) -> None:
        for _ in range(steps):
            await self.chance.choice(self.steps)()
        await self.hours_turn()
        await self.house.agree()
        await self.restart()
        await self.house.agree()

    # what comes in

    async def rows_come(self) -> None:
        for row in self.last:
            if self.chance.random() < 0.2:
                self.house.writer.put(row)  # twice the same: the first one counts
        self.last = self.rows(self.chance.choice((1, 5, 20)))
        await self.house.write(self.last)

    async def outage(self) -> None:
        """Rows are shown from the spill, time goes on, and the database comes back to this process or to the next."""
        house = self.house
        async with refusing_writes(house.database_settings):
            await house.write(self.rows(5))
            await self.chance.choice((self.time_passes, self.an_edge_comes))()
            with contextlib.suppress(StorageError):
                await house.turn()
            await house.write(self.rows(2))
            outlived = self.chance.random() < 0.6
            if not outlived:
                await self.chance.choice((house.cut_short, house.killed))()
        if outlived:
            await house.recovered()
        else:
            await house.start()

    def rows(self, count: int) -> list[Observation]:
        return [self.row(self.started_us()) for _ in range(count)]

    def started_us(self) -> int:
        chance, now = self.chance, self.house.now_us
        hour, day = now // HOUR_US * HOUR_US, now // DAY_US * DAY_US
        edges = (
            now - chance.choice(tuple(SHORT.values())),
            hour - chance.choice(tuple(LONG.values())),
            hour - chance.choice((0, 1, 1, 2, 30)) * HOUR_US,
            day - chance.choice((0, 0, 1, 2, 29, 30)) * DAY_US,
        )
        usual = now - chance.randrange(chance.choice((60, 400, 2000, 2 * HOUR, 30 * HOUR, 33 * DAY)) * US)
        at_edge = chance.choice(edges) + chance.choice((-1, 0, 0, 1, chance.randrange(HOUR_US)))
        too_late = now - chance.randrange(30 * DAY_US, 45 * DAY_US)
        ahead = now + chance.randrange(900 * US)  # by a clock that was set back since
        return chance.choices((usual, at_edge, too_late, ahead), weights=(60, 32, 4, 4))[0]

    def row(self, started_us: int) -> Observation:
        chance = self.chance
        self.slots += 1
        of, location = chance.choice(ENDPOINTS), chance.choice(("here", "here", "there"))
        kind, recheck = chance.choice(("chat",) * 8 + ("embedding",)), chance.choice((0,) * 8 + (1, 2))
        # Rows are found by due time: some began long after theirs, or (a clock set back) before it.
        delay_ms = chance.choice((*[chance.randrange(3000)] * 20, chance.randrange(-3 * HOUR, 3 * HOUR) * 1000))
        due_ms = started_us // 1000 - delay_ms
        while (key := (due_ms, of, location, kind, recheck)) in self.keys:
            due_ms -= 1
        self.keys.add(key)
        figures = {
            name: 10 ** (chance.uniform(-4, 3.5) if name in SPANS else chance.uniform(-2, 5)) for name in FIGURES
        }
        return Observation(
            endpoint=of,
            location=location,
            slot=self.slots,
            due_at=due_ms / 1000,
            started_at=started_us / US,
            kind=kind,
            recheck=recheck,
            outcome=chance.choice((*[Outcome.SUCCESS] * 30, Outcome.REASONING_CUT, *OUTCOMES)),
            # Of every outcome: what must not count is there to be passed over.
            answer_ok=chance.choice((True, False, None)),
            **{name: value if chance.random() < 0.9 else None for name, value in figures.items()},
        )

    # time

    async def time_passes(self) -> None:
        longest = self.chance.choice((60, 60, 1000, 5000, 5000, 30 * HOUR, 5 * DAY))
        await self.house.move_to(self.house.now_us // 1000 * 1000 + self.chance.randrange(1, longest * 1000) * 1000)

    async def an_edge_comes(self) -> None:
        """The end of an hour or a day, the moment when the hour is closed, and a microsecond around both."""
        width = self.chance.choice((HOUR_US, DAY_US))
        edge = (self.house.now_us // width + 1) * width
        after = self.chance.choice((0, 60 * US, round(CLOSE_AFTER_SECONDS) * US))
        await self.house.move_to(edge + after + self.chance.choice((-1, 0, 1)))

    async def a_slot_falls_due(self) -> None:
        due_ms, interval_ms = Cadence.of(self.chance.choice(ENDPOINTS), 60).phase_ms, 60_000
        now_ms = self.house.now_us // 1000 + 1
        await self.house.move_to((now_ms + (due_ms - now_ms) % interval_ms + self.chance.choice((0, 0, 1))) * 1000)
        await self.house.agree()

    async def hours_turn(self) -> None:
        await self.house.turn()

    async def hours_turn_in_traffic(self) -> None:
        """Rows come late for the very hours that leave."""
        left_us = max(self.house.now_us - self.house.hour_us, HOUR_US)
        turning = asyncio.create_task(self.house.turn())
        while not turning.done():
            leaving_us = self.house.hour_us - self.chance.choice(tuple(LONG.values()))
            await self.house.write([self.row(leaving_us + self.chance.randrange(left_us)), *self.rows(1)])
        await turning

    # the monitor's life

    async def restart(self) -> None:
        ending = self.chance.choice((self.house.stop, self.house.cut_short, self.house.killed))
        self.house.put(self.rows(3))
        await ending()
        if self.chance.random() < 0.5:
            await self.chance.choice((self.time_passes, self.an_edge_comes))()
        self.house.settings = self.settings(self.chance.choice(LOCATIONS))
        await self.house.start(self.rows(self.chance.choice((0, 4))))

    async def reload(self) -> None:
        await self.house.reload(self.settings(self.house.settings.location))

    def settings(self, location: str) -> Settings:
        return settings_with([60.0, *(self.chance.choice((60.0, 60.0, 7.5, None)) for _ in range(2))], location)

    async def prune(self) -> None:
        # An hour is kept for 31 days at least, and must be subtracted before it goes.
        if self.house.now_us - self.house.hour_us > DAY_US:
            await self.house.turn()
        raw_seconds = self.chance.choice((2 * HOUR, DAY, 7 * DAY))
        await self.house.prune(RetentionSettings(raw_seconds, self.chance.choice((31, 35)) * DAY))
        self.last = []

    async def look(self) -> None:
        if self.chance.random() < 0.3:
            await self.house.agrees_beside()
        if self.chance.random() < 0.7:
            await self.house.turn()
        await self.house.agree()


async def told(database: DatabaseSettings, seed: int, steps: int) -> None:
    async with living(database, NIGHT + random.Random(seed).randrange(-HOUR, DAY) * US) as house:
        await Story(house, seed).play(steps)


@pytest.mark.parametrize("seed", range(1))
async def test_whatever_comes_every_window_is_what_sql_says(settings: DatabaseSettings, seed: int) -> None:
    await told(settings, seed, steps=40)


@pytest.mark.prove
@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_at_length_every_window_is_what_sql_says(
    settings: DatabaseSettings, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The spill in chunks of a few rows, so that other work comes between them.
    monkeypatch.setattr(spill, "_READ_BYTES", 1500)
    await told(settings, seed, steps=150)


def row(at_us: int, **fields: Any) -> Observation:
    """A success of the first endpoint, with figures of its own."""
    fields = {"slot": at_us, "due_at": at_us // 1000 / 1000, **figures_of(1 + at_us % 97), **fields}
    return probe(at_us / US, of=endpoint(MODELS[0]), location=LOCATIONS[0], **fields)


def samples(house: House, window: str) -> int:
    return house.board.figures(ENDPOINTS[:1], LOCATIONS[0], window).samples


@on_a_file
@pytest.mark.parametrize(("window", "hour_us"), [("1d", NIGHT), ("7d", NIGHT + 5 * HOUR_US), ("30d", NIGHT)])
async def test_a_row_of_an_hours_first_or_last_microsecond_stays_and_goes_with_that_hour(
    settings: DatabaseSettings, window: str, hour_us: int
) -> None:
    async with living(settings, hour_us + HOUR_US) as house:
        # the first is late already, the others are of hours still open
        await house.write([row(at_us) for at_us in (hour_us - 1, hour_us, hour_us + HOUR_US - 1, hour_us + HOUR_US)])
        await house.stop()
        edge = hour_us + LONG[window]
        await house.move_to(edge - 1)
        await house.start()
        assert samples(house, window) == 4
        for now_us, left in ((edge, 3), (edge + HOUR_US - 1, 3), (edge + HOUR_US, 1)):
            await house.move_to(now_us)
            await house.turn()
            await house.agree()
            assert samples(house, window) == left
        await house.agrees_beside()


async def test_a_late_row_goes_to_the_windows_that_cover_its_microsecond(settings: DatabaseSettings) -> None:
    async with living(settings, NIGHT + HOUR_US) as house:
        await house.write([row(NIGHT + HOUR_US - span + more) for span in LONG.values() for more in (-1, 0)])
        await house.agree()
        assert [samples(house, window) for window in LONG] == [1, 3, 5]
        assert shown_by(await house.agrees_beside()) == shown_by(house.board)


@pytest.mark.parametrize("window", SHORT)
async def test_a_row_leaves_a_short_window_a_microsecond_after_its_span(
    settings: DatabaseSettings, window: str
) -> None:
    async with living(settings, EVENING) as house:
        # The hour that they are of is closed when they leave: a restore needs them all the same.
        await house.write([row(EVENING), row(EVENING + 1, due_at=EVENING // US - 1)])
        for later_us, left in ((0, 2), (1, 1), (2, 0)):
            await house.move_to(EVENING + SHORT[window] + later_us)
            await house.turn()
            await house.agree()
            assert samples(house, window) == left
            await house.agrees_beside()


async def test_turning_the_hours_again_changes_nothing(settings: DatabaseSettings) -> None:
    async with living(settings, NIGHT) as house:
        await house.write([row(NIGHT + minutes * 60 * US) for minutes in range(-30 * 60, 0, 7)])
        for now_us in (NIGHT + 119 * US, NIGHT + 121 * US, NIGHT + 25 * HOUR_US + 200 * US):
            await house.move_to(now_us)
            await house.write([row(now_us - US)])
            await house.turn()
            await house.agree()
        before = shown_by(house.board), await house.dump("hourly_rollups"), await house.dump("daily_rollups")
        for _ in range(2):
            await house.turn()
            await house.agree()
        assert (shown_by(house.board), await house.dump("hourly_rollups"), await house.dump("daily_rollups")) == before


async def test_a_late_row_cannot_come_between_reading_the_hour_that_leaves_and_taking_it_away(
    settings: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with living(settings, NIGHT) as house:
        hour_rows = house.history.hour_rows
        flushes = []

        async def read_in_traffic(hour: int) -> TallyRows:
            rows = await hour_rows(hour)
            house.put([row(hour * US + len(flushes) * 1000)])
            flushes.append(asyncio.create_task(house.writer.flush()))
            await asyncio.sleep(0.05)  # enough for a commit, if there could be one
            return rows

        monkeypatch.setattr(house.history, "hour_rows", read_in_traffic)
        await house.move_to(NIGHT + HOUR_US)
        await house.turn()
        await asyncio.gather(*flushes)
        await house.agree()
        assert [samples(house, window) for window in LONG] == [0, 1, 2]


@on_a_file
async def test_three_idle_days_turn_at_once_and_come_to_what_a_restart_finds(settings: DatabaseSettings) -> None:
    async with living(settings, NIGHT + 5 * HOUR_US) as house:
        for days in (0, 1, 6, 26, 27, 28):
            await house.write([row(NIGHT - days * DAY_US + minutes * 60 * US) for minutes in range(0, 300, 30)])
        await house.agree()
        await house.move_to(NIGHT + 3 * DAY_US + 5 * HOUR_US)
        await house.turn()
        await house.agree()
        assert [samples(house, window) for window in LONG] == [0, 20, 40]
        slid = shown_by(house.board)
        await house.stop()
        await house.start()
        assert shown_by(house.board) == slid


@on_a_file
async def test_a_restart_before_its_hours_are_closed_equals_one_after(settings: DatabaseSettings) -> None:
    async with living(settings, NIGHT - 2 * HOUR_US) as house:
        await house.write([row(NIGHT - 3 * DAY_US + minutes * 60 * US) for minutes in range(0, 70 * 60, 13)])
        await house.move_to(NIGHT - 1)
        await house.write([row(NIGHT - 1), row(NIGHT), row(NIGHT - HOUR_US), row(NIGHT - HOUR_US - 1)])
        await house.killed()
        # hours and a day end while nobody is there to close them
        for now_us in (NIGHT - 1, NIGHT, NIGHT + 121 * US, NIGHT + 2 * HOUR_US):
            await house.move_to(now_us)
            beside = shown_by(await house.agrees_beside())
            assert await house.rolled_until_us() == NIGHT - 3 * HOUR_US
        await house.start()
        assert await house.rolled_until_us() == NIGHT + HOUR_US
        await house.agree()
        assert shown_by(house.board) == beside


async def test_windows_outlast_the_raw_rows_that_retention_takes(settings: DatabaseSettings) -> None:
    morning = NIGHT + 5 * HOUR_US
    async with living(settings, morning + 10 * US) as house:
        await house.write([row(morning - hours * HOUR_US + 1) for hours in range(0, 31 * 24, 4)])
        await house.agree()
        before = shown_by(house.board)
        pruned = await house.prune(RetentionSettings(7 * DAY, 31 * DAY))
        # On a server, those of whole days: two more rows of the seventh day stay.
        assert pruned.observations == 24 * 24 // 4 - 2 * house.database.keeps_days
        assert house.now_us < morning + 120 * US, "the same hour, not yet closed"
        await house.stop()
        await house.start()
        await house.agree()
        assert shown_by(house.board) == before
        await house.move_to(morning + 20 * HOUR_US)
        await house.turn()
        await house.agree()
