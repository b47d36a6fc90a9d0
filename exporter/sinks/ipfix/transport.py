"""What both transports are: one socket at a time with its Transport Session, which may be ended."""

from __future__ import annotations

import socket
import threading
import time
from abc import ABC, abstractmethod

from exporter.errors import SinkError
from exporter.sinks.ipfix.config import IpfixConfig
from exporter.sinks.ipfix.deliver import cancelled, failure
from exporter.sinks.ipfix.encode import Flows, observation_domain
from exporter.sinks.ipfix.session import Session
from exporter.sinks.ipfix.template import Template


class Transport(ABC):
    """
    Sends Data Records to a collector. Called from one thread, but for :meth:`close`.

    Args:
        config: Where to. Nothing is opened before :meth:`send`.
        templates: Of flow records.
    """

    def __init__(self, config: IpfixConfig, templates: tuple[Template, ...]) -> None:
        self._config = config
        self._templates = templates
        self._lock = threading.Lock()
        self._closed = False
        self._socket: socket.socket | None = None
        self._session: Session | None = None

    def send(self, flows: Flows, timeout: float) -> None:
        """
        Send records. After an error the next call begins a new session.

        Raises:
            SinkError: With the error of the socket.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            if self._closed:
                raise cancelled()
            domain = self._config.observation_domain
            if domain is None:
                domain = observation_domain(flows.rows.observer)
            if self._session is not None and self._session.domain != domain:
                self._shut()
            try:
                self._send(flows, domain, deadline)
            except OSError as err:
                self._shut()
                raise failure(self._config.target, err) from err
            except SinkError:
                self._shut()
                raise

    def close(self) -> None:
        """End what is under way, which fails, and give the socket back. Again is fine."""
        self._closed = True
        link = self._socket
        if link is not None:
            _wake(link)
        with self._lock:
            self._shut()

    @abstractmethod
    def _send(self, flows: Flows, domain: int, deadline: float) -> None:
        """
        As :meth:`send`, which holds the lock.

        Args:
            flows: The records.
            domain: Observation domain; a session that is open is one of it.
            deadline: On the monotonic clock.

        Raises:
            OSError: Of the socket.
            SinkError: Of anything else.
        """

    def _shut(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = self._session = None


def left(deadline: float) -> float:
    """Seconds; never 0, which would mean not to wait at all."""
    return max(deadline - time.monotonic(), 0.001)


def _wake(link: socket.socket) -> None:
    try:
        # Not SSLSocket's own, which would let the other thread go on in plain text.
        socket.socket.shutdown(link, socket.SHUT_RDWR)
    except OSError:
        # It is not connected any more, which is as good.
        return
