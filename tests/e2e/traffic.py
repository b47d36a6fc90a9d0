"""
Traffic, as a process of its own: ``python -m tests.e2e.traffic KIND ...``.

Prints what it sent as JSON. Only the standard library, so that it starts at once.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.e2e.net import Netns

_ROOT = Path(__file__).parents[2]


def start(netns: Netns, kind: str, *arguments: str | int) -> subprocess.Popen[str]:
    """A sender in a namespace; its standard output is what it sent."""
    words = [str(argument) for argument in arguments]
    return subprocess.Popen(
        netns.command(sys.executable, "-m", "tests.e2e.traffic", kind, *words),
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


def finish(sender: subprocess.Popen[str]) -> dict[str, int]:
    """What a sender sent, once it is done."""
    out, _ = sender.communicate(timeout=120)
    assert sender.returncode == 0, out
    sent: dict[str, int] = json.loads(out)
    return sent


def run(netns: Netns, kind: str, *arguments: str | int) -> dict[str, int]:
    return finish(start(netns, kind, *arguments))


def _udp(host: str, count: int, flows: int, size: int, first_port: int) -> dict[str, int]:
    """Datagrams from one socket to ``flows`` destination ports in turn."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    payload = bytes(size)
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        places = [(host, first_port + number) for number in range(flows)]
        send = sender.sendto
        for number in range(count):
            send(payload, places[number % flows])
    return {"packets": count, "payload": count * size}


def _icmp(host: str, count: int, size: int) -> dict[str, int]:
    """Echo requests, each answered before the next."""
    six = ":" in host
    family = socket.AF_INET6 if six else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    echo, reply = (128, 129) if six else (8, 0)
    with socket.socket(family, socket.SOCK_RAW, protocol) as sender:
        sender.settimeout(10)
        for number in range(count):
            body = struct.pack("!HH", 0xFE, number & 0xFFFF) + bytes(size)
            head = struct.pack("!BBH", echo, 0, 0)
            head = struct.pack("!BBH", echo, 0, _checksum(head + body))
            sender.sendto(head + body, (host, 0))
            while True:
                answer = sender.recv(65536)
                at = 0 if six else 20
                if answer[at] == reply and answer[at + 6 : at + 8] == body[2:4]:
                    break
    return {"packets": count, "replies": count}


def _checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _tcp_server(host: str, port: int, connections: int) -> dict[str, int]:
    """Read everything of some connections, then close them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    received = 0
    lock = threading.Lock()

    def serve(accepted: socket.socket) -> None:
        nonlocal received
        with accepted:
            while data := accepted.recv(1 << 18):
                with lock:
                    received += len(data)

    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen(128)
        print("listening", file=sys.stderr, flush=True)
        threads = []
        for _ in range(connections):
            thread = threading.Thread(target=serve, args=(server.accept()[0],))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    return {"payload": received}


def _tcp(host: str, port: int, connections: int, octets: int) -> dict[str, int]:
    """Connections one after the other, each sending so many octets."""
    block = bytes(min(octets, 1 << 16))
    for _ in range(connections):
        with socket.create_connection((host, port), 10) as sender:
            sent = 0
            while sent < octets:
                sent += sender.send(block[: octets - sent])
            sender.shutdown(socket.SHUT_WR)
            sender.recv(1)
    return {"payload": connections * octets}


def main() -> None:
    """Send, and say what was sent."""
    parser = argparse.ArgumentParser()
    kinds = parser.add_subparsers(dest="kind", required=True)
    udp = kinds.add_parser("udp")
    for name in ("count", "flows", "size", "first_port"):
        udp.add_argument(f"--{name}", type=int, required=True)
    icmp = kinds.add_parser("icmp")
    for name in ("count", "size"):
        icmp.add_argument(f"--{name}", type=int, required=True)
    for kind in ("tcp", "tcp-server"):
        tcp = kinds.add_parser(kind)
        tcp.add_argument("--port", type=int, required=True)
        tcp.add_argument("--connections", type=int, required=True)
        if kind == "tcp":
            tcp.add_argument("--octets", type=int, required=True)
    for parser_of_kind in kinds.choices.values():
        parser_of_kind.add_argument("--host", required=True)
    chosen = vars(parser.parse_args())
    senders: dict[str, Callable[..., dict[str, int]]] = {
        "udp": _udp,
        "icmp": _icmp,
        "tcp": _tcp,
        "tcp-server": _tcp_server,
    }
    print(json.dumps(senders[chosen.pop("kind")](**chosen)))


if __name__ == "__main__":
    main()
