"""How many files and sockets this process may have open, and how many it will want."""

from __future__ import annotations

import logging
import resource

from monitor.settings import ProbingSettings, Settings

log = logging.getLogger(__name__)

# The database, the web server's clients, name lookups, key files.
_RESERVE = 128


def provide_descriptors(settings: Settings) -> None:
    """As many as there may be; a line in the log where they are too few."""
    short = shortage(settings.probing, settings.catalog.lane_count, raise_limit())
    if short is not None:
        log.warning("files_short %s", short)


def raise_limit() -> int:
    """Lift the soft limit to the hard one, which costs nothing; returns what then holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a hard limit above what the kernel gives to anybody
        return soft
    return hard


def hard_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def shortage(probing: ProbingSettings, lanes: int, limit: int) -> str | None:
    """What to say where `limit` open files are fewer than probing may come to need; None if they do. `lanes`: how many
    probes may be under way at once, but for the cap."""
    at_once = min(probing.concurrency, lanes)
    # A host with two addresses may get two connections, of which the slower is closed; pooled ones stay open.
    needed = 2 * at_once + (lanes if probing.connection == "reuse" else 0) + _RESERVE
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return None
    return (
        f"{limit} open files are allowed and {at_once} probes at once may need {needed}: raise the limit "
        f"(ulimit -n {needed}, or LimitNOFILE={needed} in the unit), or lower probing.concurrency"
    )
