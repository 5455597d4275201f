"""Ten thousand endpoints a minute in one process on one core: what that takes, and what becomes of the figures.

See docs/benchmarks.md."""


def main(*words: str) -> int:
    from benchmarks.scale.run import main as run

    return run(*words)
