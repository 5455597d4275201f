"""One UTC hour that is still open: what was observed in it, as arrays of small numbers rather than tallies.

An observation takes some 40 bytes here; as counters by bin, ten thousand endpoints' hour took 100 MB, and closing it a
second of work. Places are kept in shares, each of which is closed in one go.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from monitor.health.columns import NONE, Columns, Ints, Lookup, split
from monitor.health.sketch import FIGURES, encode_many
from monitor.health.tally import Tally, figure_values
from monitor.observation import CHAT, Observation
from monitor.outcome import OUTCOME_CODES, OUTCOMES, Outcome
from monitor.storage.codec import tally_columns
from monitor.storage.names import Place
from monitor.storage.schema import PICO

PLACES_A_SHARE = 128  # 60 probes of each are closed in 3 ms
_BINS = 1024  # more than any scale has
assert all(scale.bins <= _BINS for scale in FIGURES.values())
_NO_COUNTS = "{}"
_SUCCESS = OUTCOME_CODES[Outcome.SUCCESS]

Row = dict[str, int | str | bytes | None]


@dataclass(slots=True)
class _Share:
    """The chat observations of up to PLACES_A_SHARE places: an entry each, and one per figure and sample."""

    places: list[Place] = field(default_factory=list)
    owners: array[int] = field(default_factory=lambda: array("i"))
    codes: array[int] = field(default_factory=lambda: array("b"))
    answers: array[int] = field(default_factory=lambda: array("b"))  # 1, 0, or -1: not looked at
    tokens: array[int] = field(default_factory=lambda: array("q"))
    costs: array[int] = field(default_factory=lambda: array("q"))  # pico-dollars
    samples: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("i") for _ in FIGURES))  # owner, bin
    moved: list[tuple[int, int, int]] = field(default_factory=list)  # owner, code, count


class OpenHour:
    """Counts scheduled observations; of rechecks only what they cost."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()  # location -> pico-dollars, of all probes that began in this hour
        self._shares: list[_Share] = []
        self._number_of: dict[tuple[str, str], int] = {}
        self._lookup = Lookup(self._number)
        self._others: dict[Place, Tally] = {}  # of other kinds than chat, which are rare

    def add(self, observation: Observation) -> None:
        if observation.cost_usd:
            self.spent[observation.location] += round(observation.cost_usd * PICO)
        if observation.recheck:
            return
        if observation.kind != CHAT:
            place = (observation.endpoint, observation.location, observation.kind)
            self._others.setdefault(place, Tally()).add(observation)
            return
        number = self._number(observation.endpoint, observation.location)
        share, owner = self._shares[number // PLACES_A_SHARE], number % PLACES_A_SHARE
        code = OUTCOME_CODES[observation.outcome]
        share.owners.append(owner)
        share.codes.append(code)
        asked = observation.answer_ok is not None and code == _SUCCESS
        share.answers.append(int(bool(observation.answer_ok)) if asked else -1)
        share.tokens.append(observation.output_tokens or 0)
        share.costs.append(round((observation.cost_usd or 0.0) * PICO))
        if figures := figure_values(observation):
            for samples, (name, scale) in zip(share.samples, FIGURES.items(), strict=True):
                if (value := figures.get(name)) is not None:
                    samples.append(owner * _BINS + scale.bin_of(value))

    def add_columns(self, columns: Columns, chosen: npt.NDArray[np.bool_]) -> None:
        """The `chosen` rows, which must be of this hour."""
        self._spend(columns, chosen)
        chosen = chosen & (columns.recheck == 0)
        number = self._lookup.of(columns)
        share, owner = number // PLACES_A_SHARE, number % PLACES_A_SHARE
        answer = np.where((columns.outcome == _SUCCESS) & (columns.answer != NONE), columns.answer, -1)
        rows = np.flatnonzero(chosen)
        for each, part in split(share, rows):
            into = self._shares[each]
            into.owners.frombytes(owner[part].astype(np.int32).tobytes())
            into.codes.frombytes(columns.outcome[part].astype(np.int8).tobytes())
            into.answers.frombytes(answer[part].astype(np.int8).tobytes())
            into.tokens.frombytes(columns.output_tokens[part].tobytes())
            into.costs.frombytes(columns.cost_pusd[part].tobytes())
        for figure, name in enumerate(FIGURES):
            measured, bins = columns.binned(name)
            here = chosen[measured]
            measured, bins = measured[here], bins[here]
            keys = (owner[measured] * _BINS + bins).astype(np.int32)
            for each, part in split(share[measured], np.arange(measured.size)):
                self._shares[each].samples[figure].frombytes(keys[part].tobytes())

    def move(self, observation: Observation, outcome: Outcome) -> None:
        """A row that was added has got another class; told errors alone do, and no sketch knows of them."""
        if observation.kind != CHAT:
            tally = self._others.get((observation.endpoint, observation.location, observation.kind))
            if tally is not None:
                tally.outcomes.update({outcome: 1, observation.outcome: -1})
            return
        number = self._number_of.get((observation.endpoint, observation.location))
        if number is not None:
            owner = number % PLACES_A_SHARE
            self._shares[number // PLACES_A_SHARE].moved += [
                (owner, OUTCOME_CODES[outcome], 1),
                (owner, OUTCOME_CODES[observation.outcome], -1),
            ]

    def rolled(self) -> Iterator[list[tuple[Place, Row]]]:
        """What `codec.tally_columns` would give of each place, share by share."""
        for share in self._shares:
            rows = zip(share.places, _rows_of(share), strict=True)
            # A place may be known from rows that are not counted here.
            if counted := [(place, row) for place, row in rows if row["counts"] != _NO_COUNTS]:
                yield counted
        if self._others:
            yield [(place, tally_columns(tally)) for place, tally in self._others.items()]

    def places(self) -> list[Place]:
        return [*(place for share in self._shares for place in share.places), *self._others]

    def _spend(self, columns: Columns, chosen: npt.NDArray[np.bool_]) -> None:
        costs = _sums(columns.place[chosen], columns.cost_pusd[chosen], len(columns.places))
        for (_, location), cost in zip(columns.places, costs, strict=True):
            if cost:
                self.spent[location] += cost

    def _number(self, endpoint: str, location: str) -> int:
        number = self._number_of.get((endpoint, location))
        if number is None:
            number = self._number_of[endpoint, location] = len(self._number_of)
            if number % PLACES_A_SHARE == 0:
                self._shares.append(_Share())
            self._shares[-1].places.append((endpoint, location, CHAT))
        return number


def _rows_of(share: _Share) -> list[Row]:
    many = len(share.places)
    owners = np.frombuffer(share.owners, dtype=np.int32).astype(np.int64)
    codes = np.frombuffer(share.codes, dtype=np.int8)
    answers = np.frombuffer(share.answers, dtype=np.int8)
    counts = np.bincount(owners * len(OUTCOMES) + codes, minlength=many * len(OUTCOMES)).reshape(many, -1)
    for owner, code, count in share.moved:
        counts[owner, code] += count
    columns: dict[str, list[Any]] = {
        "counts": [_counts_text(each) for each in counts.tolist()],
        "answers_asked": np.bincount(owners[answers >= 0], minlength=many).tolist(),
        "answers_ok": np.bincount(owners[answers == 1], minlength=many).tolist(),
        "output_tokens": _sums(owners, np.frombuffer(share.tokens, dtype=np.int64), many),
        "cost_pusd": _sums(owners, np.frombuffer(share.costs, dtype=np.int64), many),
        "meter": [None] * many,
    }
    for name, samples in zip(FIGURES, share.samples, strict=True):
        keys, amounts = np.unique(np.frombuffer(samples, dtype=np.int32).astype(np.int64), return_counts=True)
        columns[name] = encode_many(keys // _BINS, keys % _BINS, amounts, many)
    names = tuple(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _sums(owners: Ints, amounts: Ints, many: int) -> list[int]:
    sums = np.zeros(many, dtype=np.int64)
    np.add.at(sums, owners, amounts)
    found: list[int] = sums.tolist()
    return found


_NAMES = tuple(outcome.value for outcome in OUTCOMES)
_BY_NAME = sorted(range(len(_NAMES)), key=lambda code: _NAMES[code])


def _counts_text(counts: list[int]) -> str:
    found = {_NAMES[code]: counts[code] for code in _BY_NAME if counts[code]}
    return msgspec.json.encode(found).decode()
