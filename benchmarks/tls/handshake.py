"""What a handshake costs the client alone: both sides in one thread, over memory, and its own calls are timed."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

_HOST = "127.0.0.1"


def client_context(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["http/1.1"])
    return context


def handshake_us(client: ssl.SSLContext, server: ssl.SSLContext, times: int, *, resumed: bool = False) -> float:
    """Median microseconds of the client's CPU."""
    session = _shake(client, server, None)[1] if resumed else None
    taken = []
    for _ in range(times):
        seconds, newer = _shake(client, server, session)
        # A ticket of TLS 1.3 is good for once; openssl takes it again, a server that is strict would not.
        session = newer if resumed else None
        taken.append(seconds)
    return sorted(taken)[len(taken) // 2] * 1e6


def _shake(
    client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[float, ssl.SSLSession | None]:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    seconds = 0.0
    begun = time.thread_time()
    ours = client.wrap_bio(to_client, to_server, server_hostname=_HOST, session=session)
    seconds += time.thread_time() - begun
    is_ready = [False, False]
    while not all(is_ready):
        begun = time.thread_time()
        is_ready[0] = is_ready[0] or _step(ours)
        seconds += time.thread_time() - begun
        is_ready[1] = is_ready[1] or _step(theirs)
    theirs.write(b"x")
    begun = time.thread_time()
    ours.read(1)  # the tickets come before it
    seconds += time.thread_time() - begun
    if session is not None and not ours.session_reused:
        raise RuntimeError("the session was not taken up again")
    return seconds, ours.session


def _step(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
