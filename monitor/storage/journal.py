"""SQLite's way for the rows of a busy fleet: into a journal first, then into the raw table, thousands at a time.

    a commit of many rows -> packed into two or three slots, each a page that is written over
    every 45 s            -> what waits there goes into the raw table, in order of its key; the slots are free again

Probes end in another order than they fall due: written at once, each commit would rewrite twenty pages of the raw table
for the three that its rows fill. What has been moved is told by one number, the mark; a move that was broken off is
made again, and the table passes over the rows that it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from monitor.storage.codec import WRITTEN_COLUMNS
from monitor.storage.errors import is_outage
from monitor.storage.journal_slots import SLOT_BYTES, DamagedSlotsError, Row, pack, unpack

log = logging.getLogger(__name__)

# Below, rows go straight into the raw table: few of them cost little, and anybody's SQL sees them at once. At a commit
# every 0.6 s: 33 rows a second, which cost 2.4 GB of write-ahead log a day.
MANY_ROWS = 20
FEW_ROWS = 10
SUSTAINED_COMMITS = 16  # so many in a row decide
BULK_ROWS = 512  # a batch of so many fills its pages by itself: a replay, a made-up past
MOVE_SECONDS = 45.0  # each rewrites the pages of those that come late: at 30 s seven bytes a row more
# Rows that fell due so lately stay for the next move, so that hardly one comes later to a page that has been written. A
# probe that hears nothing ends after 20 s.
_LATEST_MS = 22_000
ROWS_A_TRANSACTION = 10_000  # each costs nine pages beyond those that its rows fill
# Rows that come in order leave an eighth of each page empty, which so many fill: 132 bytes a row and not 142. Of every
# tenth already some meet a full page, and split it.
_FILLING = 13
_ROWS_A_STATEMENT = 250  # some 2 ms of the database's thread
_ROWS_A_LOOK = 1_000  # they have long left the processor's cache: some 1 ms of the loop

TABLE = "journal"
_KEY = 5  # due_ms, endpoint_id, location_id, kind_id, recheck: the first columns, see `engine`
# Of a write-ahead log every page is part that a transaction has emptied; but one that it fills again is there once.
_LET_GO = (
    "DELETE FROM raw_observations WHERE due_ms < ? "
    "AND due_ms < (SELECT due_ms FROM raw_observations ORDER BY due_ms LIMIT 1 OFFSET ?)"
)
_KEY_NAMES = WRITTEN_COLUMNS[:_KEY]
_MARK = 0  # the id of the row whose `seq` is the mark: batches up to it have been moved

_HOW_FAR = "SELECT ifnull(max(CASE id WHEN 0 THEN seq END), 0), ifnull(max(seq), 0), ifnull(max(id), 0) FROM journal"
_LIVE = "SELECT id, seq, packed FROM journal WHERE id > 0 AND seq > ? ORDER BY seq, id"
_WRITE = (
    "INSERT INTO journal (id, seq, packed) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, packed = excluded.packed"
)
_INSERT = (
    f"INSERT INTO raw_observations ({', '.join(WRITTEN_COLUMNS)}) "  # noqa: S608  # our own names
    f"VALUES ({', '.join('?' * len(WRITTEN_COLUMNS))}) ON CONFLICT DO NOTHING"
)


class Cursor(Protocol):
    """What there is of a driver's cursor in a synchronous place."""

    def execute(self, statement: str, parameters: Sequence[Any] = ..., /) -> Any: ...
    def executemany(self, statement: str, parameters: Sequence[Any], /) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


class Journal:
    """The rows that wait, in the file and in memory alike. Belongs to one write transaction at a time: `committed` or
    `rolled_back` ends it, and what was changed in one that failed is read from the file again."""

    def __init__(self) -> None:
        self.is_used = False  # whether the next commit's rows go through it
        self.let_go_ms = 0  # raw rows due before it are not wanted any more
        self.gone = 0  # of those, how many moves have taken away
        self._is_known = False  # whether what is below is what the file says
        self._is_touched = False  # by the open transaction
        self._rows: dict[Row, tuple[int, Row]] = {}  # key -> batch, row; oldest batch first
        self._rows_of: Counter[int] = Counter()  # batch -> how many of its rows wait
        self._slots_of: deque[tuple[int, list[int]]] = deque()  # batches whose slots are taken, oldest first
        self._free: list[int] = []
        self._last_slot = 0
        self._seq = 0  # of the last batch
        self._mark = 0
        self._newest_ms = 0  # no row of the raw table is due later
        self._streak = 0  # commits in a row that speak for the other way
        self._moving: deque[Row] = deque()  # what is left of the move under way, in order of key
        self._moved_at: float | None = None  # monotonic; when the last move began
        self._seq_at_move = 0

    def __len__(self) -> int:
        """Rows that wait, as far as is known."""
        return len(self._rows)

    def move_due_in(self, now: float) -> float | None:
        """Seconds until `move` should be called again, at the monotonic time `now`; None if nothing waits."""
        if not self._is_known or (self._rows and (self._moving or not self.is_used)):
            return 0.0
        if not self._rows:
            return None
        if self._moved_at is None:
            self._moved_at = now
        return max(self._moved_at + MOVE_SECONDS - now, 0.0)

    async def oldest_due_ms(self, connection: AsyncConnection) -> int | None:
        """When the oldest row that waits fell due; None if none waits."""
        await self.know(connection)
        return min((key[0] for key in self._rows), default=None)

    def takes(self, rows: int) -> bool:
        """Whether a commit of so many rows goes this way."""
        if rows >= BULK_ROWS:
            return False
        speaks_against = rows < FEW_ROWS if self.is_used else rows >= MANY_ROWS
        self._streak = self._streak + 1 if speaks_against else 0
        if self._streak >= SUSTAINED_COMMITS:
            self._streak = 0
            self.is_used = not self.is_used
            log.info("journal is_used=%s rows_a_commit=%d", self.is_used, rows)
        return self.is_used

    def not_waiting(self, rows: Sequence[Row]) -> list[int]:
        """Positions of the rows whose key does not wait here; they are about to be written past the journal."""
        self._newest_ms = max(self._newest_ms, max((row[0] for row in rows), default=0))
        return [number for number, row in enumerate(rows) if row[:_KEY] not in self._rows]

    async def add(self, connection: AsyncConnection, rows: Sequence[Row]) -> list[int]:
        """Keep `rows`. The positions of those that are new: neither here nor in the raw table."""
        keys = [row[:_KEY] for row in rows]
        in_table = await _in_table(connection, [key for key in keys if key[0] <= self._newest_ms])
        new: dict[Row, int] = {}
        for number, key in enumerate(keys):
            if key not in self._rows and key not in in_table:
                new.setdefault(key, number)
        positions = list(new.values())
        if not positions:
            return []
        packed = pack([rows[number] for number in positions])
        self._is_touched = True
        self._seq += 1
        slots = [self._free_slot() for _ in packed]
        await connection.exec_driver_sql(
            _WRITE, [(slot, self._seq, each) for slot, each in zip(slots, packed, strict=True)]
        )
        self._slots_of.append((self._seq, slots))
        self._rows_of[self._seq] = len(positions)
        for key, number in new.items():
            self._rows[key] = (self._seq, rows[number])
        return positions

    async def move(self, connection: AsyncConnection, now: float, *, everything: bool) -> None:
        """Bring the next rows that wait, at most ROWS_A_TRANSACTION, into the raw table. Without `everything` the
        latest are left for the next move, which begins MOVE_SECONDS from now."""
        await self.know(connection)
        self._is_touched = True
        if everything or not self._moving:
            self._moving = await self._chosen(everything or not self.is_used)
            self._moved_at, self._seq_at_move = now, self._seq
        rows = [self._moving.popleft() for _ in range(min(ROWS_A_TRANSACTION, len(self._moving)))]
        self._newest_ms = max(self._newest_ms, rows[-1][0] if rows else 0)
        await self._let_go(connection, len(rows))
        if not everything:  # else their neighbours come later, and find no room
            rows = in_filling_order(rows)
        for start in range(0, len(rows), _ROWS_A_STATEMENT):
            portion = rows[start : start + _ROWS_A_STATEMENT]
            await _insert(connection, portion)
            for row in portion:
                seq, _ = self._rows.pop(row[:_KEY])
                self._rows_of[seq] -= 1
                if not self._rows_of[seq]:
                    del self._rows_of[seq]
        await self._set_mark(connection)

    async def know(self, connection: AsyncConnection) -> None:
        """Read the file, where it is not known what it says."""
        if self._is_known:
            return
        self._forget()
        self._mark, self._seq, self._last_slot = await how_far(connection)
        newest = "SELECT max(due_ms) FROM raw_observations"
        self._newest_ms = (await connection.exec_driver_sql(newest)).scalar() or 0
        found = (await connection.exec_driver_sql(_LIVE, (self._mark,))).all()
        for seq, (slots, rows) in _batches(found).items():
            self._slots_of.append((seq, slots))
            for row in rows:
                self._rows[row[:_KEY]] = (seq, row)
            if rows:
                self._rows_of[seq] = len(rows)
            await asyncio.sleep(0)
        taken = {slot for _, slots in self._slots_of for slot in slots}
        self._free = [slot for slot in range(self._last_slot, _MARK, -1) if slot not in taken]
        self._is_known = True

    def committed(self) -> None:
        self._is_touched = False

    def rolled_back(self) -> None:
        if self._is_touched:
            self.forget()

    def forget(self) -> None:
        """What is in the file is to be read again, before anything else is done."""
        self._is_known = self._is_touched = False

    def _forget(self) -> None:
        self._rows.clear()
        self._rows_of.clear()
        self._slots_of.clear()
        self._moving.clear()
        self._moved_at = None

    def _free_slot(self) -> int:
        if self._free:
            return self._free.pop()
        self._last_slot += 1
        return self._last_slot

    async def _chosen(self, everything: bool) -> deque[Row]:
        waiting = list(self._rows.values())
        latest_ms = max((row[0] for row in self._rows), default=0) - _LATEST_MS
        chosen: list[Row] = []
        for start in range(0, len(waiting), _ROWS_A_LOOK):
            # Whoever was left by the last move goes with this one, whenever it is due: a clock may have been ahead.
            chosen += [
                row
                for seq, row in waiting[start : start + _ROWS_A_LOOK]
                if everything or row[0] <= latest_ms or seq <= self._seq_at_move
            ]
            await asyncio.sleep(0)
        chosen.sort(key=itemgetter(0))
        return deque(chosen)

    async def _let_go(self, connection: AsyncConnection, rows: int) -> None:
        """Of the oldest rows as many as come in, in the same transaction: their pages are filled again at once."""
        if rows and self.let_go_ms:
            self.gone += (await connection.exec_driver_sql(_LET_GO, (self.let_go_ms, rows))).rowcount

    async def _set_mark(self, connection: AsyncConnection) -> None:
        mark = min(self._rows_of, default=self._seq + 1) - 1
        if mark <= self._mark:
            return
        await connection.exec_driver_sql(_WRITE, (_MARK, mark, bytes(SLOT_BYTES)))
        self._mark = mark
        while self._slots_of and self._slots_of[0][0] <= mark:
            self._free += self._slots_of.popleft()[1]


def in_filling_order(rows: list[Row]) -> list[Row]:
    """Rows in order of their key, for a table that they are appended to: so that its pages are full in the end."""
    return [row for number, row in enumerate(rows) if number % _FILLING] + rows[::_FILLING]


async def how_far(connection: AsyncConnection) -> tuple[int, int, int]:
    """The mark, the last batch, and the last slot."""
    row: Any = (await connection.exec_driver_sql(_HOW_FAR)).one()
    return int(row[0]), int(row[1]), int(row[2])


async def _in_table(connection: AsyncConnection, keys: Sequence[Row]) -> set[Row]:
    """Those of `keys` that the raw table has."""
    if not keys:
        return set()
    marks = ", ".join([f"({', '.join('?' * _KEY)})"] * len(keys))
    same = " AND ".join(f"raw.{name} = asked.{name}" for name in _KEY_NAMES)
    query = (
        f"WITH asked ({', '.join(_KEY_NAMES)}) AS (VALUES {marks}) "  # noqa: S608  # our own names
        f"SELECT asked.* FROM asked CROSS JOIN raw_observations AS raw ON {same}"
    )
    found = await connection.exec_driver_sql(query, tuple(value for key in keys for value in key))
    return {tuple(row) for row in found}


async def _insert(connection: AsyncConnection, rows: list[Row]) -> None:
    try:
        await connection.exec_driver_sql(_INSERT, rows)
    except Exception as error:
        if is_outage(error):
            raise
        # Rows that were packed are such as the table takes, unless somebody changed the table by hand.
        for row in rows:
            try:
                await connection.exec_driver_sql(_INSERT, row)
            except Exception as its_own:
                if is_outage(its_own):
                    raise
                log.error("the raw table refuses a row that waited error=%s row=%r", its_own, row)


def _batches(live: Iterable[Any]) -> dict[int, tuple[list[int], list[Row]]]:
    """From rows of _LIVE, by batch: its slots and its rows."""
    slots: dict[int, list[int]] = {}
    packed: dict[int, list[bytes]] = {}
    for slot, seq, each in live:
        slots.setdefault(seq, []).append(slot)
        packed.setdefault(seq, []).append(each)
    found = {}
    for seq, parts in packed.items():
        try:
            rows = unpack(parts)
        except DamagedSlotsError as error:
            log.error("rows lost, the journal is damaged batch=%d slots=%d error=%s", seq, len(parts), error)
            rows = []
        found[seq] = (slots[seq], rows)
    return found


def show_waiting(cursor: Cursor) -> None:
    """For a connection that only reads, and beside which somebody may be writing: from here on, `raw_observations` is
    the raw table and the rows that wait at this moment."""
    cursor.execute("BEGIN")
    cursor.execute(_HOW_FAR)
    cursor.execute(_LIVE, (cursor.fetchone()[0],))
    rows = [row for _, its in _batches(cursor.fetchall()).values() for row in its]
    cursor.execute("COMMIT")
    if not rows:
        return
    names = ", ".join(WRITTEN_COLUMNS)
    key = ", ".join(_KEY_NAMES)
    # Of the same types: else the planner would not take the view apart, and each page would be a look at every row.
    cursor.execute("PRAGMA main.table_info(raw_observations)")
    typed = ", ".join(f"{column[1]} {column[2]}" for column in cursor.fetchall() if column[1] in WRITTEN_COLUMNS)
    cursor.execute(f"CREATE TEMP TABLE waiting ({typed}, PRIMARY KEY ({key})) WITHOUT ROWID")
    cursor.executemany(_INSERT.replace("raw_observations", "temp.waiting"), rows)
    # What is moved meanwhile is not told twice. SQLite merges the two by their keys.
    same = " AND ".join(f"raw.{name} = waiting.{name}" for name in _KEY_NAMES)
    cursor.execute(
        f"CREATE TEMP VIEW raw_observations AS SELECT {names} FROM main.raw_observations UNION ALL "  # noqa: S608
        f"SELECT {names} FROM temp.waiting AS waiting "
        f"WHERE NOT EXISTS (SELECT 1 FROM main.raw_observations AS raw WHERE {same})"
    )
