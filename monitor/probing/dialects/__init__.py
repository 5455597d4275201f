"""The API dialects, by the name that a provider's `dialect:` gives: every module of this package that has a DIALECT."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from monitor.discovery import members_of
from monitor.probing.dialects.dialect import Dialect

_FOUND: list[Dialect] = members_of(__name__, __path__, "DIALECT")
DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in _FOUND})
