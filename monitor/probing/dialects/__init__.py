"""The API dialects, by the name that a provider's `dialect:` gives: every module of this package that has a DIALECT."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from monitor.probing.dialects.dialect import Dialect


def _found() -> dict[str, Dialect]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = (import_module(f"{__name__}.{name}") for name in names)
    dialects: list[Dialect] = [module.DIALECT for module in modules if hasattr(module, "DIALECT")]
    return {dialect.name: dialect for dialect in dialects}


DIALECTS: Mapping[str, Dialect] = MappingProxyType(_found())
