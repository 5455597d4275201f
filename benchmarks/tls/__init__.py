"""What TLS adds to a probe: the daemon beside a plain and a secret server in turn. See docs/benchmarks.md."""


def main(*words: str) -> int:
    from benchmarks.tls.run import main as run

    return run(*words)
