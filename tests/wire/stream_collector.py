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
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Self

from tests import patience
from tests.wire.certificates import Pair
from tests.wire.ipfix import Read, Reader

_ROOT = Path(__file__).parents[2]
#: Octets that the kernel holds for a process that does not read. Linux doubles what is asked for.
RECEIVE_BUFFER = 64 * 1024


class StreamCollector:
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
        self._directory = directory
        self.port = port or free_port(socket.SOCK_STREAM)
        self.target = f"127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "tests.wire.stream_collector", str(self.port), str(directory),
            str(delay),
        ]  # fmt: skip
        if pair is not None:
            self._command += [str(pair.certificate), str(pair.key)]
        if clients is not None:
            self._command.append(str(clients))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=_ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """As a machine that loses power."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def connections(self) -> list[bytes]:
        """What came over each connection that brought anything, in order."""
        files = sorted(self._directory.glob("*.ipfix"), key=lambda path: int(path.stem))
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


def free_port(kind: socket.SocketKind) -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Any, what: str, seconds: float = 20.0) -> None:
    """Wait for something that will be so soon; fail the test if it is not."""
    end = time.monotonic() + seconds * patience.FACTOR
    while not condition():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.01)


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
