"""One-packet flows in every interval: ``python -m benchmarks.sender FLOWS INTERVAL TIMES``."""

from __future__ import annotations

import socket
import sys
import time


def main() -> None:
    """Send to as many different (address, port) pairs as there are flows."""
    flows, interval, times = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    places = [
        (f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 5000)
        for number in range(flows)
    ]
    payload = bytes(32)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        sender.bind(("192.0.2.1", 4000))
        send = sender.sendto
        begin = time.monotonic()
        for turn in range(times):
            for place in places:
                send(payload, place)
            time.sleep(max(begin + (turn + 1) * interval - time.monotonic(), 0))


if __name__ == "__main__":
    main()
