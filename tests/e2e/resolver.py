"""dnsmasq in a namespace, and a client that asks it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import dns.exception
import dns.message
import dns.query

from tests.conftest import missing
from tests.e2e.agent import wait_until
from tests.e2e.net import End

_SMALL_SEGMENT = 100


def find() -> str:
    """The program; a test that lacks it says so."""
    found = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        missing("dnsmasq (Debian: dnsmasq-base)")
    assert found is not None
    return found


class Dnsmasq:
    """
    A server for the names that it is given, and no others: it asks nobody.

    Args:
        end: Where it runs; it listens on all of the namespace's addresses.
        directory: For its configuration and its log.
        lines: Of its configuration.
    """

    def __init__(self, end: End, directory: Path, lines: Sequence[str]) -> None:
        directory.mkdir(exist_ok=True)
        self._end = end
        self._log = directory / "dnsmasq.log"
        self._configuration = directory / "dnsmasq.conf"
        common = ("no-resolv", "no-hosts", "log-queries", f"log-facility={self._log}", "user=root",
                  "pid-file", "cache-size=0", "edns-packet-max=1232")  # fmt: skip
        self._configuration.write_text("\n".join([*common, *lines, ""]))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._end.netns.command(find(), "-k", f"--conf-file={self._configuration}"),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

        def listening() -> bool:
            assert self._process.poll() is None, self._process.communicate()[0]
            return ":0035 " in self._end.netns.run("cat", "/proc/net/tcp")

        wait_until(listening, "dnsmasq listens")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def asked(self, kind: str) -> Counter[str]:
        """How often each name was asked for, by its own log."""
        return Counter(re.findall(rf"query\[{kind}\] (\S+) from", self._log.read_text()))


def ask(client: End, server: str, name: str, kind: str = "A", **options: Any) -> list[str]:
    """
    What a server says to a query over UDP, over TCP if that was truncated; dnspython's reading.

    Returns:
        Addresses.
    """
    query = dns.message.make_query(name, kind, **options)
    with client.netns.entered():
        answer, _ = dns.query.udp_with_fallback(query, server, timeout=10)
    return values(answer)


def ask_by_tcp(client: End, server: str, *questions: tuple[str, str]) -> list[list[str]]:
    """One connection for all questions; the server's segments are small."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with client.netns.entered():
        connection = socket.socket(family, socket.SOCK_STREAM)
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SMALL_SEGMENT)
        connection.settimeout(10)
        connection.connect((server, 53))
        return [
            values(dns.query.tcp(dns.message.make_query(*one), server, 10, sock=connection))
            for one in questions
        ]


def values(answer: dns.message.Message) -> list[str]:
    """Addresses in the answer."""
    return [
        item.address
        for rrset in answer.answer
        for item in rrset
        if hasattr(item, "address")
    ]  # fmt: skip
