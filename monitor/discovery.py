"""What is built in by lying there: the modules of a package that have a member of some name."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any


def members_of(package: str, path: Iterable[str], member: str) -> list[Any]:
    """The `member` of each module of `package`, whose `__path__` is `path`, that has one; by the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(path))
    modules = (import_module(f"{package}.{name}") for name in names)
    return [getattr(module, member) for module in modules if hasattr(module, member)]
