"""`make bench`: every benchmark's own table, one after the other. Figures are shown, never asserted."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import sys

import benchmarks


def main() -> int:
    print(f"Python {platform.python_version()} on {platform.machine()}, {platform.system()} {platform.release()}")
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name != "__main__":
            print(f"\n## {module.name}\n")
            importlib.import_module(f"benchmarks.{module.name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
