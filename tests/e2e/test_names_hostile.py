"""Servers and bystanders that lie: the agent names nothing by them, counts them, and goes on."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import dns.message
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.e2e.agent import Agent
from tests.e2e.net import End, Network
from tests.e2e.test_names import PORT, SERVER, configured, events, settle, talk, wire
from tests.kernel.hooks import send
from tests.packets.hostile_dns import VICTIM, good, hostile

GOOD = "192.0.2.67"


def query(name: str, number: int) -> bytes:
    made = dns.message.make_query(name, "A", use_edns=False)
    made.id = number
    return made.to_wire()


def exchange(client: End, server: socket.socket, name: str, number: int, reply: bytes) -> None:
    """A query over real sockets, and what the server says to it."""
    with client.netns.entered():
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(10)
        asking.connect((SERVER, 53))
        asking.send(query(name, number))
        _, address = server.recvfrom(4096)
        server.sendto(reply, address)
        asking.recv(8192)


def listen(server: End, kind: socket.SocketKind) -> socket.socket:
    with server.netns.entered():
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(10)
    made.bind((SERVER, 53))
    return made


def test_answers_of_a_hostile_server(network: Network, tmp_path: Path) -> None:
    """Each has the right number, ends and question, unless that is what is wrong with it."""
    client, server = wire(network)
    with (
        listen(server, socket.SOCK_DGRAM) as evil,
        Agent(client.netns, tmp_path, *configured(tmp_path)) as agent,
    ):
        replies = hostile(query("h.example.test", 7))
        for number, what in enumerate(replies):
            asked = query(f"h{number}.example.test", number)
            exchange(client, evil, f"h{number}.example.test", number, hostile(asked)[what])
        talk(client, [VICTIM, GOOD])
        assert settle(agent, [VICTIM, GOOD]) == {VICTIM: {None}, GOOD: {None}}
        before = events(agent)
        asked = query("good.example.test", 9)
        exchange(client, evil, "good.example.test", 9, good(asked, bytes((192, 0, 2, 67))))
        talk(client, [VICTIM, GOOD], PORT + 1)
        found = settle(agent, [VICTIM, GOOD], PORT + 1)
        after = events(agent)
        assert agent.stop() == 0
    assert found == {VICTIM: {None}, GOOD: {"good.example.test"}}
    # A header without a question, an empty datagram and the like are not all malformed.
    assert before["malformed"] > 10
    assert before["unsolicited"] >= 2
    assert before["refused"] == 3
    assert before["answers"] == 3
    assert after["answers"] == 4
    assert after["queries"] == before["queries"] + 1


def test_frames_of_bystanders(network: Network, tmp_path: Path) -> None:
    """
    Well-formed answers that nobody asked for, to the right client, from the right server: with
    another port, number or question than the query that waits, and over a TCP connection that
    never was.
    """
    client, server = wire(network)
    ether = Ether(src=server.netns.mac("vb"), dst=client.netns.mac("va"))
    ip = IP(src=SERVER, dst="192.0.2.1")
    with (
        listen(server, socket.SOCK_DGRAM) as silent,
        Agent(client.netns, tmp_path, *configured(tmp_path)) as agent,
    ):
        with client.netns.entered():
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            asking.connect((SERVER, 53))
            asking.send(query("bank.example.test", 500))
            silent.recv(4096)
            port = asking.getsockname()[1]
            forged: list[Any] = [
                UDP(sport=53, dport=port) / good(query("bank.example.test", 501)),
                UDP(sport=53, dport=port ^ 1) / good(query("bank.example.test", 500)),
                UDP(sport=54, dport=port) / good(query("bank.example.test", 500)),
                UDP(sport=53, dport=port) / good(query("shop.example.test", 500)),
            ]
            answer = good(query("bank.example.test", 500))
            stream = len(answer).to_bytes(2, "big") + answer
            forged += [
                TCP(sport=53, dport=port, flags="PA", seq=5000) / stream,
                TCP(sport=53, dport=port + 2, flags="S", seq=4999),
                TCP(sport=53, dport=port + 2, flags="PA", seq=5000) / stream,
                TCP(sport=53, dport=port + 2, flags="PA", seq=5000 + len(stream)) / (b"\0" * 64),
            ]
            send(server, *[bytes(ether / ip / one) for one in forged])
            talk(client, [VICTIM])
            assert settle(agent, [VICTIM]) == {VICTIM: {None}}
            counted = events(agent)
        assert agent.stop() == 0
    assert counted["unsolicited"] == 4
    assert counted["unknown_segments"] == 1
    assert counted["broken_streams"] == 1
    assert counted["answers"] == counted["malformed"] == 0
