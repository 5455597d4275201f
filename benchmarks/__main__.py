"""`make bench`: every benchmark's own table, one after the other. Figures are shown, never asserted.

python -m benchmarks [name ...] [that one's own arguments]
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import platform
import sys
from collections.abc import Sequence

import benchmarks


def main(words: Sequence[str]) -> int:
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]
    wanted = list(itertools.takewhile(lambda word: word in names, words))
    rest = words[len(wanted) :]
    if rest and len(wanted) != 1:
        print(f"benchmarks: {rest[0]} is none of {', '.join(names)}; arguments go to one by name", file=sys.stderr)
        return 2
    print(f"Python {platform.python_version()} on {platform.machine()}, {platform.system()} {platform.release()}")
    for name in wanted or names:
        print(f"\n## {name}\n", flush=True)
        importlib.import_module(f"benchmarks.{name}").main(*rest)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
