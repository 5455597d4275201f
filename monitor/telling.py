"""What the log says of endpoints: an event word and key=value pairs, quoted where a value has spaces."""

from __future__ import annotations

import json
import logging
import re

from monitor.clock import utc_text
from monitor.health.state import Standing, Transition
from monitor.health.vantage import Finding
from monitor.observation import Observation

log = logging.getLogger(__name__)

_PLAIN = re.compile(r"[^\s\"'=\\]+")


def quoted(value: object) -> str:
    """`value` behind a `key=`: as it is, or in quotes if it would not end where it should; `-` if there is none."""
    text = "" if value is None else str(value)
    if not text:
        return "-"
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text, ensure_ascii=False)


def tell_probe(observation: Observation) -> None:
    """For `--verbose`: every probe that did not succeed."""
    if not observation.is_ok:
        outcome = observation.outcome.value
        log.debug(
            "probe endpoint=%s kind=%s outcome=%s detail=%s",
            observation.endpoint, observation.kind, outcome, quoted(observation.detail),
        )  # fmt: skip


def tell_transition(transition: Transition) -> None:
    if transition.previous is not transition.state:
        log.info(
            "state endpoint=%s location=%s from=%s to=%s cause=%s since=%s detail=%s",
            transition.endpoint, transition.location, transition.previous.value, transition.state.value,
            transition.cause or "-", utc_text(transition.since), quoted(transition.detail),
        )  # fmt: skip


def tell_ours(observation: Observation, before: Standing, after: Standing) -> None:
    """What `observation` changed of what is ours to mend: the key, and the request itself."""
    endpoint, location = observation.endpoint, observation.location
    if not after.usable and (before.usable or before.unusable_cause != after.unusable_cause):
        tell_unusable(endpoint, location, after.unusable_cause, observation.detail)
    elif after.usable and not before.usable:
        log.info("usable again endpoint=%s location=%s", endpoint, location)
    if after.defect is not None and after.defect != before.defect:
        log.warning(
            "request refused endpoint=%s location=%s cause=%s detail=%s",
            endpoint, location, after.defect, quoted(after.defect_detail),
        )  # fmt: skip
    elif after.defect is None and before.defect is not None:
        log.info("request accepted again endpoint=%s location=%s", endpoint, location)


def tell_unusable(endpoint: str, location: str, cause: str | None, detail: str | None = None) -> None:
    log.warning("unusable endpoint=%s location=%s cause=%s detail=%s", endpoint, location, cause or "-", quoted(detail))


def tell_location(finding: Finding, begun: Finding | None) -> None:
    """A location that has become suspect, or is so no longer; `begun` is what was told when it became so."""
    if finding.since is not None:
        log.warning(
            "location suspect location=%s since=%s why=%s",
            finding.location, utc_text(finding.since), quoted(finding.detail),
        )  # fmt: skip
    else:
        since = None if begun is None or begun.since is None else utc_text(begun.since)
        log.info("location sound again location=%s suspect_since=%s", finding.location, since or "-")
