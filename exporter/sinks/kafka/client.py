"""What the two client libraries look like to the sink, and what it makes of their complaints."""

from __future__ import annotations

import threading
from typing import Protocol

from exporter.errors import SinkError
from exporter.sinks.kafka.encode import KafkaMessage

#: Octets that a client may add to a batch of ``max_octets`` before it finds it too large itself.
MARGIN = 1 << 16
#: Seconds after which a client gives up on a message by itself. Until then it sends the same
#: again, numbered, so that the broker drops what it has already; afterwards it is sent anew.
GIVE_UP = 120.0

#: What may be said of a destination, the more telling the later.
REASONS = (
    "deadline",
    "unavailable",
    "topic_missing",
    "unresolved",
    "authorization",
    "tls",
    "authentication",
)
#: After these a new connection is made from the start: libraries remember them.
STALE = ("authorization", "tls", "authentication")


#: Partition -> indices of the values that go there.
Places = dict[int, list[int]]


class Complaints:
    """
    What a client library said last of its brokers. From any thread.

    A library says that all brokers are down right after it has said why: what tells more wins,
    until :meth:`begin`.

    Args:
        where: What every error's text begins with: the brokers.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._reason = ""
        self._detail = ""
        self._fresh = False

    def begin(self) -> None:
        """Whatever is said next replaces what was said before."""
        with self._lock:
            self._fresh = False

    def clear(self) -> None:
        """All is well."""
        with self._lock:
            self._reason = self._detail = ""

    def note(self, reason: str, detail: str) -> None:
        """One more. ``reason`` is of REASONS."""
        with self._lock:
            if not (self._fresh and self._reason) or REASONS.index(reason) >= REASONS.index(
                self._reason
            ):
                self._reason, self._detail, self._fresh = reason, " ".join(detail.split()), True

    def error(self, reason: str, detail: str) -> SinkError:
        """
        Why nothing was delivered in time: what was noted, else what is given here. A retry can help
        with each: brokers come back, topics are made, passwords and certificates replaced.
        """
        with self._lock:
            noted = self._reason, self._detail
            if not self._reason or (not self._fresh and reason != "deadline"):
                noted = reason, detail
        return SinkError(noted[0], f"{self._where}: {noted[1]}", retryable=True)


class Client(Protocol):
    """
    A producer of one of the libraries. Methods with a ``wait`` block for so many seconds at most
    and say whether they are done; ask again.
    """

    complaints: Complaints
    #: It will never send anything again: make another.
    broken: bool

    def connected(self, wait: float) -> bool:
        """Whether there is a producer. Raises SinkError if there will be none."""

    def partitions(self, wait: float) -> int:
        """How many partitions the topic has; 0 if that is not known yet. Raises SinkError."""

    def send(self, message: KafkaMessage, places: Places) -> None:
        """
        Begin to send some values of a message.

        Args:
            message: Whose.
            places: Which, and where to.
        """

    def settled(self, wait: float) -> bool:
        """Whether the fate of everything that was sent is known."""

    def failures(self) -> dict[int, SinkError]:
        """Index and reason of what was sent, is settled, and is not on the broker. Asked once."""

    def abandon(self) -> None:
        """Close the connections at once; what was under way has failed. Again is fine."""


#: Error codes of the protocol -> reason, and whether sending the same again may help.
#: Source: https://kafka.apache.org/protocol#protocol_error_codes
_CODES = {
    3: ("topic_missing", True),
    10: ("too_large", False),
    18: ("too_large", False),
    29: ("authorization", True),
    31: ("authorization", True),
    # The topic's settings forbid it, whenever it is sent.
    32: ("rejected", False),
    58: ("authentication", True),
    76: ("rejected", False),
    87: ("rejected", False),
}


def failure(code: int, detail: str) -> SinkError:
    """
    What becomes of a value that a broker, or the client in its place, refused.

    Args:
        code: The protocol's; any other number is a failure to reach it.
        detail: The client's words.
    """
    reason, retryable = _CODES.get(code, ("unavailable", True))
    return SinkError(reason, " ".join(detail.split()), retryable=retryable)
