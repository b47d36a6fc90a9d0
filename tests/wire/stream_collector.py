"""
A collector of IPFIX over TCP and TLS: keeps what each connection brings in a file of its own.

Neither nfcapd 1.7.1 nor nfacctd 1.7.7, which Debian has, takes IPFIX over TCP or TLS: this stands
in for one that does, and what it kept is read by the independent reader beside it and by tshark.

Run as a process (``python -m tests.wire.stream_collector PORT DIRECTORY``), so that it can be
killed.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.certificates import Pair
from tests.patience import wait_until
from tests.servers import Server, free_port
from tests.wire.ipfix import Read, Reader

__all__ = ["RECEIVE_BUFFER", "StreamCollector", "free_port", "wait_until"]

_ROOT = Path(__file__).parents[2]
#: Octets that the kernel holds for a process that does not read. Linux doubles what is asked for.
RECEIVE_BUFFER = 64 * 1024


class StreamCollector(Server):
    """
    The process, listening on 127.0.0.1.

    Args:
        directory: Of the files, which must be this collector's own.
        pair: The server's certificate, for TLS.
        clients: The authority whose certificates are asked for and accepted.
        delay: Seconds that it takes for each read.
        port: To listen on; one that is free if 0. It stays the same after a restart.
    """

    def __init__(
        self,
        directory: Path,
        pair: Pair | None = None,
        clients: Path | None = None,
        delay: float = 0.0,
        port: int = 0,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self._kept = directory
        self.port = port or free_port(socket.SOCK_STREAM)
        self.target = f"127.0.0.1:{self.port}"
        command = [
            sys.executable, "-m", "tests.wire.stream_collector", str(self.port), str(directory),
            str(delay),
        ]  # fmt: skip
        if pair is not None:
            command += [str(pair.certificate), str(pair.key)]
        if clients is not None:
            command.append(str(clients))
        super().__init__(command, directory.with_suffix(".log"), _ROOT)

    def _is_ready(self) -> bool:
        return self._says("ready\n")

    def connections(self) -> list[bytes]:
        """What came over each connection that brought anything, in order."""
        files = sorted(self._kept.glob("*.ipfix"), key=lambda path: int(path.stem))
        return [octets for octets in (path.read_bytes() for path in files) if octets]

    def read(self) -> list[list[Read]]:
        """The messages of each connection: a Transport Session with templates of its own."""
        return [list(Reader().stream(octets)) for octets in self.connections()]

    def flows(self) -> list[dict[str, Any]]:
        """All flow records."""
        return [
            record
            for session in self.read()
            for message in session
            for number, record in message.records
            if number in (256, 257)
        ]


def main() -> None:
    """Serve until killed."""
    port, directory, delay, *files = sys.argv[1:]
    context = None
    if files:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files[0], files[1])
        if len(files) > 2:
            context.load_verify_locations(files[2])
            context.verify_mode = ssl.CERT_REQUIRED
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind(("127.0.0.1", int(port)))
        listener.listen()
        print("ready", flush=True)
        number = len(list(Path(directory).iterdir()))
        while True:
            connection, _ = listener.accept()
            path = Path(directory) / f"{number}.ipfix"
            number += 1
            path.touch()
            threading.Thread(
                target=_keep, args=(connection, context, path, float(delay)), daemon=True
            ).start()


def _keep(link: socket.socket, context: ssl.SSLContext | None, path: Path, delay: float) -> None:
    # Unbuffered: what was read is in the file, whenever the process is killed.
    with path.open("ab", buffering=0) as kept:
        try:
            if context is not None:
                link = context.wrap_socket(link, server_side=True)
            while octets := link.recv(16_384):
                kept.write(octets)
                time.sleep(delay)
        except OSError as err:
            print(err, file=sys.stderr, flush=True)
        finally:
            link.close()


if __name__ == "__main__":
    main()
