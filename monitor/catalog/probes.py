"""Which kinds of probe an endpoint is sent, how often, and which of them decides.

Chat is asked where the model gives text, unless `chat: off` is written; the other kinds only where they are asked for:
the endpoint's `probes`, else its model's. Without chat the first kind decides, and is asked at the endpoint's interval
unless one is written for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from monitor.catalog.model import ProbeKind
from monitor.config.probes import DEFAULT_INTERVAL_SECONDS, WantedProbes
from monitor.config.reading import Fields, Value, join
from monitor.probing.kinds import EMBEDDINGS, KINDS, LONG_PROMPT_TOKENS

if TYPE_CHECKING:  # probing knows the catalog
    from monitor.probing.dialects.dialect import Dialect


class Asked(NamedTuple):
    is_asked_chat: bool
    probes: tuple[ProbeKind, ...]
    interval_seconds: float


def asked_of(
    endpoint: Fields,
    model: Fields,
    defaults: Fields | None,
    interval_seconds: float,
    dialect: Dialect | None,
) -> Asked:
    """What an endpoint is asked; `defaults` are `probing.probes`, `interval_seconds` the endpoint's own; `dialect`
    None = it is not one of this release. What does not hold is told where it is written."""
    holder = endpoint if "probes" in endpoint.places else model
    wanted: WantedProbes | None = holder.values.get("probes")
    gives = model.values.get("output_modalities") or ("text",)
    asks_chat = "text" in gives if wanted is None or wanted.chat is None else wanted.chat
    kinds = {} if wanted is None else {kind: given for kind, (_, given) in wanted.kinds.items()}
    if not asks_chat and not kinds:
        is_written = "probes" in holder.places
        if not is_written and EMBEDDINGS in gives and (dialect is None or EMBEDDINGS in dialect.kinds):
            kinds = {EMBEDDINGS: {}}
        else:
            asks_chat = True
            if wanted is not None or not is_written:
                where = holder if is_written else model
                place = where.places.get("probes") or replace(where.at, path=join(where.at.path, "probes"))
                _tell_once(place, "leaves nothing to ask: no chat, and no other kind", "probes: [embeddings]")
    if wanted is not None and dialect is not None:
        _check_dialect(wanted, dialect, is_own=holder is endpoint)
    shared: dict[str, Mapping[str, Any]] = (
        {} if defaults is None else {kind: each.values for kind, each in defaults.values.items()}
    )
    probes = []
    for number, (kind, given) in enumerate(kinds.items()):
        merged = {**shared.get(kind, {}), **given}
        fallback = interval_seconds if number == 0 and not asks_chat else DEFAULT_INTERVAL_SECONDS
        tokens = merged.get("prompt_tokens", LONG_PROMPT_TOKENS) if kind == "long" else 0
        probes.append(ProbeKind(kind, merged.get("interval_seconds", fallback), tokens))
        if wanted is not None and kind in wanted.kinds and tokens:
            _check_context(wanted.kinds[kind][0], tokens, model.values.get("context_length"))
    return Asked(asks_chat, tuple(probes), interval_seconds if asks_chat else probes[0].interval_seconds)


def _check_dialect(wanted: WantedProbes, dialect: Dialect, *, is_own: bool) -> None:
    able = ", ".join(kind for kind in KINDS if kind in dialect.kinds)
    where = "" if is_own else "; give its endpoint `probes` of its own"
    for kind, (place, _) in wanted.kinds.items():
        if kind not in dialect.kinds:
            _tell_once(place, f"dialect {dialect.name} cannot ask {kind}, only {able}{where}", f"probes: [{able}]")


def _check_context(place: Value, tokens: int, context_length: int | None) -> None:
    if context_length is not None and tokens >= context_length:
        message = f"asks with {tokens:,} tokens, and the model's context_length is {context_length:,}"
        _tell_once(place, message, f"long: {{prompt_tokens: {max(context_length // 2, 64)}}}")


def _tell_once(place: Value, message: str, example: str) -> None:
    """What a model's endpoints have in common is written once, and told once."""
    if all((known.path, known.message) != (place.path, message) for known in place.findings.problems):
        place.tell(message, example)
