"""
Short flows between any addresses, as a process: ``python -m tests.e2e.chatter``.

Frames are sent as they are, so that nobody needs to have the addresses. Who has them at that time
is another's business.
"""

from __future__ import annotations

import json
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from tests.e2e.net import End

_ROOT = Path(__file__).parents[2]
#: Destination port of all of it.
PORT = 7777
#: A flow is so many frames, each with so many octets of payload.
FRAMES, _PAYLOAD = 3, 32
#: Flows that run at the same time.
_TOGETHER = 8


class Chatter:
    """
    The process; it sends until it is told to stop.

    Args:
        end: Where the frames leave; they say that they are for the device behind it.
        mac: Of that device.
        addresses: Of both ends of flows; a flow's are of one family.
        flows_per_second: As many as it can if that is too many.
    """

    def __init__(self, end: End, mac: str, addresses: Sequence[str], flows_per_second: int) -> None:
        command = [sys.executable, "-m", "tests.e2e.chatter", end.device, mac]
        self._command = end.netns.command(*command, str(flows_per_second))
        self._addresses = addresses
        #: Flows that were sent, once it has ended.
        self.flows = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
        )
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{address}\n" for address in self._addresses) + "\n")
        self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        # The end of its input tells it to stop.
        out, _error = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        self.flows = json.loads(out)


def _frame(mac: bytes, source: bytes, destination: bytes, port: int) -> bytes:
    udp = struct.pack("!HHHH", port, PORT, 8 + _PAYLOAD, 0) + bytes(_PAYLOAD)
    if len(source) == 4:
        head = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, 17, 0) + source + destination
        total = sum(struct.unpack("!10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        packet = head[:10] + struct.pack("!H", checksum) + head[12:]
        return mac + b"\x02" + bytes(5) + b"\x08\x00" + packet + udp
    head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + source + destination
    return mac + b"\x02" + bytes(5) + b"\x86\xdd" + head + udp


def _send(device: str, mac: bytes, families: list[list[bytes]], flows_per_second: int) -> int:
    """Until the input ends; the number of flows."""
    rng = random.Random(1)
    begun, count = time.monotonic(), 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((device, 0))
        while not select.select([sys.stdin], [], [], 0)[0]:
            frames = []
            for number in range(count, count + _TOGETHER):
                source, destination = rng.sample(rng.choice(families), 2)
                frames.append(_frame(mac, source, destination, 1024 + number % 60000))
            for frame in frames * FRAMES:
                out.send(frame)
            count += _TOGETHER
            ahead = count / flows_per_second - (time.monotonic() - begun)
            if ahead > 0:
                time.sleep(ahead)
    return count


def main() -> None:
    """Addresses from the standard input until an empty line; it stops when that input ends."""
    device, mac, flows_per_second = sys.argv[1:]
    lines = [line.strip() for line in iter(sys.stdin.readline, "\n")]
    packed = [ip_address(line).packed for line in lines]
    families = [[one for one in packed if len(one) == size] for size in (4, 16)]
    usable = [family for family in families if len(family) > 1]
    print(json.dumps(_send(device, bytes.fromhex(mac.replace(":", "")), usable,
                           int(flows_per_second))))  # fmt: skip


if __name__ == "__main__":
    main()
