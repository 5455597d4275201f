"""What is asked of the kernel, of name servers and of other places, on real sockets."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from suspicion_stage import NOWHERE, Door, NameServer

from monitor.suspicion.asking import reaches
from monitor.suspicion.evidence import answers_dns, connects, has_any_route, has_route, name_servers, names_in_hosts

pytestmark = pytest.mark.timed


def test_the_kernel_is_asked_for_a_way_and_nothing_is_sent() -> None:
    assert has_route("127.0.0.99")
    assert not has_route(NOWHERE)
    assert has_any_route((NOWHERE, "127.0.0.99"))
    assert not has_any_route((NOWHERE,))


async def test_a_place_is_alive_if_any_of_its_addresses_takes_a_connection() -> None:
    door = Door("127.0.0.41")
    await door.open()
    assert await connects("127.0.0.41", door.port)
    assert not await connects("127.0.0.42", door.port)
    assert await reaches({"127.0.0.42", "127.0.0.41", NOWHERE}, door.port)
    assert not await reaches({NOWHERE}, door.port)
    door.shut()
    assert not await reaches({"127.0.0.41", "127.0.0.42"}, door.port)


async def test_a_connect_that_hangs_can_be_given_up_and_leaves_no_socket() -> None:
    door = Door("127.0.0.43")
    await door.open()
    door.swallow()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reaches({"127.0.0.43"}, door.port)
    assert len(os.listdir("/proc/self/fd")) < before + 10, "others in this process may open some, but none for each"
    door.shut()


class Odd(NameServer):
    """Answers with somebody else's number, then with its own."""

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(bytes(2) + data[2:], address)
        self._transport.sendto(b"?", address)
        super().datagram_received(data, address)


@pytest.mark.parametrize(
    ("server", "code", "is_dead", "answers"),
    [
        (NameServer(), 0, False, True),
        (NameServer(), 5, False, True),  # REFUSED
        (NameServer(), 2, False, False),  # SERVFAIL
        (NameServer(), 0, True, False),
        (Odd(), 0, False, True),
    ],
    ids=["answer", "refused", "servfail", "dead", "odd"],
)
async def test_a_name_server_is_alive_if_it_says_anything_but_servfail(
    server: NameServer, code: int, is_dead: bool, answers: bool
) -> None:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.54", 0)
    )
    server.code, server.is_dead = code, is_dead
    port = transport.get_extra_info("sockname")[1]
    began = time.monotonic()
    assert await answers_dns("127.0.0.54", port, 1.0) is answers
    assert time.monotonic() - began < 3.0
    assert server.asked == 1 or is_dead, "who is silent is asked once more: a packet may be lost"
    transport.close()


async def test_where_nobody_listens_no_name_server_is_alive() -> None:
    assert not await answers_dns("127.0.0.55", 9, 0.3)


def test_the_systems_name_servers_and_local_names_are_read_as_libc_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("search a.example\n# nameserver 9.9.9.9\nnameserver 127.0.0.53 # stub\nnameserver\tfd00::1\n")
    assert name_servers(file) == ["127.0.0.53", "fd00::1"]
    file.write_text("")
    assert name_servers(file) == name_servers(tmp_path / "missing") == ["127.0.0.1"]
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n10.0.0.1 Gateway gw # the router\n")
    assert names_in_hosts(hosts) == {"localhost", "gateway", "gw"}
