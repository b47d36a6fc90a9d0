"""
``observe`` and ``top`` of agents elsewhere: the calls of ``proto/observe.proto``, as a client.

A stream that breaks while somebody follows it is taken up again, with a line that says so; what was
published in between is not shown.
"""

from __future__ import annotations

import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from google.protobuf.message import DecodeError

from exporter._pb import observe_pb2 as pb
from exporter.credentials import TlsConfig, read
from exporter.errors import ConfigError, ControlError, ExporterError
from exporter.observe import Wanted
from exporter.quantities import split_host_port
from exporter.status import Lines
from exporter.telemetry import printable
from exporter.top import Asked

OBSERVE, TOP = "/flowexporter.Observer/Observe", "/flowexporter.Observer/Top"
_TLS = "tls://"
#: Seconds until a server that is gone is asked again.
_AGAIN = 1.0
#: Messages that wait to be printed; more wait with the servers, which drop what is too much.
_WAITING = 16
#: Milliseconds and octets. A connection that is not there after ten seconds is reported.
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.min_reconnect_backoff_ms", 10_000),
]
#: Of gRPC's messages: a status, and the address again.
_PREFIX = re.compile(r"^([A-Z_]+: )?(ipv[46]:\S+: )?(?=.)")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Server:
    """
    An agent that serves its flows.

    Args:
        address: ``host:port``, with ``tls://`` before it for TLS.
        tls: TLS without that.
        authorities: PEM files to trust; the system's if there are none.
        certificate, key: PEM files of the client's own, for mutual TLS.
        name: What the server's certificate must have, if not the address's host.
    """

    address: str
    tls: bool = False
    authorities: tuple[Path, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    name: str = ""

    @property
    def target(self) -> str:
        """``host:port``."""
        return self.address.removeprefix(_TLS)

    @property
    def is_secure(self) -> bool:
        """Whether TLS is meant: also by naming a certificate."""
        return bool(
            self.tls or self.authorities or self.certificate or self.address.startswith(_TLS)
        )

    def check(self) -> None:
        """
        Find mistakes before anything is connected.

        Raises:
            ConfigError: If the address is none, or a file cannot be used.
        """
        try:
            split_host_port(self.target)
        except ValueError as err:
            raise ConfigError(f"--server: {err}") from None
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("--tls-client-cert-file and --tls-client-key-file go together")
        for authority in self.authorities or (None,):
            if self.is_secure:
                TlsConfig(ca=authority, certificate=self.certificate, key=self.key).context()


def request(wanted: Wanted, view: str = "") -> pb.Request:
    """What is asked for, as a message; ``view`` is of :data:`TOP`."""
    conditions = [
        pb.Condition(name=name, value=value, excluded=excluded)
        for some, excluded in ((wanted.conditions, False), (wanted.excluded, True))
        for name, value in some
    ]
    return pb.Request(
        conditions=conditions, since_ns=wanted.since_ns, until_ns=wanted.until_ns,
        last=wanted.last, first=wanted.first, follow=wanted.follow, schema=wanted.schema, view=view,
    )  # fmt: skip


def wanted_of(asked: pb.Request) -> Wanted:
    """
    Out of :func:`request`.

    Raises:
        ConfigError: If it cannot be.
    """
    conditions: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
    for one in asked.conditions:
        conditions[one.excluded].append((one.name, one.value))
    return Wanted(
        tuple(conditions[False]), tuple(conditions[True]),
        since_ns=asked.since_ns, until_ns=asked.until_ns,
        last=asked.last if asked.HasField("last") else None,
        first=asked.first, follow=asked.follow, schema=asked.schema or "otel",
    )  # fmt: skip


class Messages:
    """Those of a stream: whole lines, as far as there are any. ``cancel`` is for any thread."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.cancel: Callable[[], None] = call.cancel

    def __iter__(self) -> Iterator[bytes]:
        for message in self._call:
            try:
                lines = pb.Lines.FromString(message).lines
            except DecodeError as err:
                raise ControlError(f"{len(message)} octets are no flowexporter.Lines") from err
            yield lines


@contextmanager
def stream(server: Server, method: str, asked: pb.Request) -> Iterator[Messages]:
    """
    One stream, once the agent has understood what is asked for.

    Raises:
        ConfigError: If the agent does not know what is asked for.
        ControlError: If it does not answer, or the stream breaks; also while it is read.
    """
    # Else gRPC writes to standard error, too, what is told in one line here.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Imported here: 20 MB that only those need who look from elsewhere.
    import grpc

    channel = _channel(server)
    call: Any = None
    try:
        call = channel.unary_stream(method)(asked.SerializeToString())
        messages = Messages(call)
        next(iter(messages), None)
        yield messages
    except grpc.RpcError as err:
        raise _error(server, err) from err
    finally:
        if call is not None:
            call.cancel()
        channel.close()


def _channel(server: Server) -> Any:
    import grpc

    if not server.is_secure:
        return grpc.insecure_channel(server.target, _OPTIONS)
    server.check()
    options = list(_OPTIONS)
    if server.name:
        options.append(("grpc.ssl_target_name_override", server.name))
    own = [read(path) if path else None for path in (server.key, server.certificate)]
    authorities = b"\n".join(read(path) for path in server.authorities) or None
    return grpc.secure_channel(
        server.target, grpc.ssl_channel_credentials(authorities, *own), options
    )


def _error(server: Server, err: Any) -> ExporterError:
    """What a status means, in one line."""
    # What others say goes to a terminal.
    status, said = err.code().name, printable(" ".join((err.details() or "").split()))
    if status == "INVALID_ARGUMENT":
        return ConfigError(said)
    if status == "RESOURCE_EXHAUSTED" and "larger than max" in said:
        return ConfigError(f"{server.address} takes no conditions of so many characters")
    if status == "RESOURCE_EXHAUSTED":
        return ControlError(
            f"{server.address} serves as many as it may already: see observe.clients"
        )
    if status == "UNIMPLEMENTED":
        return ControlError(f"{server.address} is no flow-exporter agent that serves its flows")
    if status == "UNAVAILABLE":
        return ControlError(f"{server.address} does not answer: {_reason(server, said)}")
    return ControlError(f"{server.address}: {status.lower()}: {said}")


def _reason(server: Server, said: str) -> str:
    """What gRPC said, shortened, and what that may mean."""
    short = _PREFIX.sub("", said.rpartition("last error: ")[2])
    if "CERTIFICATE_VERIFY_FAILED" in said or "Hostname Verification" in said:
        return f"its certificate is not to be trusted: {short}"
    if "refused" in said:
        return "connection refused"
    if "WRONG_VERSION_NUMBER" in said:
        return f"it does not speak TLS: {short}"
    # It does not say why it closes a connection.
    question = ""
    if "closed" in said or "reset" in said:
        question = f": does it trust {server.certificate}?"
        if server.certificate is None:
            question = ": does it want a certificate, --tls-client-cert-file?"
        if not server.is_secure:
            question = ": does it want TLS, tls:// before the address?"
    return short + question


def recent(servers: Iterable[Server], wanted: Wanted, say: Say) -> Generator[bytes]:
    """
    Lines of what has been; of several servers by the time of each flow's end.

    Raises:
        ExporterError: The last of what went wrong, when all others have been read.
    """
    found: list[bytes] = []
    failure: ExporterError | None = None
    servers = tuple(servers)
    for server in servers:
        try:
            with stream(server, OBSERVE, request(wanted)) as messages:
                for message in messages:
                    found += message.splitlines(keepends=True)
        except ControlError as err:
            if failure is not None:
                say(str(failure))
            failure = err
    if len(servers) > 1:
        found.sort(key=_end)
        found = found[-wanted.last :] if wanted.last else found
        found = found[: wanted.first] if wanted.first else found
    yield from found
    if failure is not None:
        raise failure


def _end(line: bytes) -> str:
    try:
        record = orjson.loads(line)
        return str(record["TimeFlowEndMs"] if "SrcAddr" in record else record["time"]["end"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as err:
        raise ControlError(f"a line that is no flow: {err!r}") from None


def follow(servers: Iterable[Server], wanted: Wanted, say: Say) -> Generator[bytes]:
    """
    Lines of what comes, from all servers, until as many as are wanted have come.

    Raises:
        ExporterError: If the only server cannot be asked at first, or one does not know what is
            asked for.
    """
    came: queue.Queue[bytes | ExporterError] = queue.Queue(_WAITING)
    stopped = threading.Event()
    some = [_Following(server, wanted, say, came, stopped) for server in servers]
    threads = [
        threading.Thread(target=one.run, args=(len(some) == 1,), daemon=True) for one in some
    ]
    for thread in threads:
        thread.start()
    left = wanted.first
    try:
        while True:
            message = came.get()
            if isinstance(message, ExporterError):
                raise message
            for line in message.splitlines(keepends=True):
                yield line
                if left and line != b"\n" and not line.startswith(b'{"notice"'):
                    left -= 1
                    if not left:
                        return
    finally:
        stopped.set()
        for one in some:
            one.end()
        for thread in threads:
            # Whoever waits for a connection may do so to the end of the process.
            thread.join(_AGAIN)


@dataclass
class _Following:
    """One server's stream, taken up again when it breaks."""

    server: Server
    wanted: Wanted
    say: Say
    came: queue.Queue[bytes | ExporterError]
    stopped: threading.Event
    messages: Messages | None = None

    def end(self) -> None:
        """Wake the thread, which has been told to stop."""
        if self.messages is not None:
            self.messages.cancel()

    def run(self, at_once: bool) -> None:  # noqa: FBT001 - an argument of a thread
        """Until told to stop; ``at_once``: it is an error if the server does not answer now."""
        wanted, told = self.wanted, False
        while not self.stopped.is_set():
            try:
                with stream(self.server, OBSERVE, request(wanted)) as self.messages:
                    if told:
                        self.say(f"{self.server.address} is there again")
                    # What was published meanwhile is not shown, rather than something twice.
                    wanted, at_once, told = replace(self.wanted, last=0), False, False
                    for message in self.messages:
                        self._put(message)
                problem = f"{self.server.address} has ended the stream"
            except ControlError as err:
                if at_once:
                    self._put(err)
                    return
                problem = str(err)
            except ExporterError as err:
                self._put(err)
                return
            if not (told or self.stopped.is_set()):
                self.say(f"{problem}: trying again")
                told = True
            self.stopped.wait(_AGAIN)

    def _put(self, message: bytes | ExporterError) -> None:
        while not self.stopped.is_set():
            try:
                self.came.put(message, timeout=_AGAIN)
            except queue.Full:
                continue
            return


@contextmanager
def summed(server: Server, asked: Asked) -> Iterator[Lines]:
    """
    What ``top`` shows, with a descriptor that can be waited for.

    Raises:
        ExporterError: As :func:`stream`; at the end for what broke meanwhile.
    """
    with stream(server, TOP, request(asked.wanted, asked.view)) as messages:
        failures: list[Exception] = []
        ours, theirs = socket.socketpair()
        pump = threading.Thread(target=_pump, args=(messages, theirs, failures), daemon=True)
        pump.start()
        with ours, ours.makefile("rb") as file:
            yield Lines(file)
            broken = failures[:1]
        if broken:
            raise broken[0]


def _pump(messages: Messages, to: socket.socket, failures: list[Exception]) -> None:
    import grpc

    with to:
        try:
            for message in messages:
                to.sendall(message)
        except (grpc.RpcError, ExporterError, OSError) as err:
            failures.append(err)
