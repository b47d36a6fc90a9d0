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
    "unavailable",
    "deadline",
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
    """

    def __init__(self) -> None:
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
            if not (self._fresh and self._reason) or REASONS.index(reason) >= REASONS.index(self._reason):
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
        return SinkError(*noted, retryable=True)


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


def failure(name: str, detail: str) -> SinkError:
    """
    What becomes of a value that the client or a broker refused.

    Args:
        name: The protocol's name of the error, in capitals: ``MESSAGE_TOO_LARGE``.
        detail: The client's words.

    Source: https://kafka.apache.org/protocol#protocol_error_codes
    """
    if name in ("MESSAGE_TOO_LARGE", "MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"):
        return SinkError("too_large", detail, retryable=False)
    if name in ("INVALID_RECORD", "INVALID_TIMESTAMP", "UNSUPPORTED_COMPRESSION_TYPE"):
        # The topic's settings forbid it, whenever it is sent.
        return SinkError("rejected", detail, retryable=False)
    reasons = {
        "UNKNOWN_TOPIC_OR_PARTITION": "topic_missing",
        "UNKNOWN_TOPIC_OR_PART": "topic_missing",
        "TOPIC_AUTHORIZATION_FAILED": "authorization",
        "CLUSTER_AUTHORIZATION_FAILED": "authorization",
    }
    return SinkError(reasons.get(name, "unavailable"), detail, retryable=True)
