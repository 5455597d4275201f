"""How right a TTFT is: the daemon beside other clients, all against a server that knows. See docs/benchmarks.md."""


def main(*words: str) -> int:
    # Imported when called: the clients under another environment import this package and have no daemon.
    from benchmarks.ttft.run import main as run

    return run(*words)
