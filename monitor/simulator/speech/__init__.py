"""How simulated providers speak, by the name of the dialect: every module of this package that has a SPEECH."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from monitor.simulator.speech.speech import Speech


def _found() -> dict[str, Speech]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = (import_module(f"{__name__}.{name}") for name in names)
    speeches: list[Speech] = [module.SPEECH for module in modules if hasattr(module, "SPEECH")]
    return {speech.name: speech for speech in speeches}


SPEECHES: Mapping[str, Speech] = MappingProxyType(_found())
