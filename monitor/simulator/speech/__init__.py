"""How simulated providers speak, by the name of the dialect: every module of this package that has a SPEECH."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from monitor.discovery import members_of
from monitor.simulator.speech.speech import Speech

_FOUND: list[Speech] = members_of(__name__, __path__, "SPEECH")
SPEECHES: Mapping[str, Speech] = MappingProxyType({speech.name: speech for speech in _FOUND})
