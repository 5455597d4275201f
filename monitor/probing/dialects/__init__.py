"""The API dialects, by the name that a provider's `dialect:` gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from monitor.probing.dialects.dialect import Dialect
from monitor.probing.dialects.openai_chat import OpenAIChat

DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in (OpenAIChat(),)})
