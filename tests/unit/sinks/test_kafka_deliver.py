"""What a Kafka delivery remembers between its attempts, with a client that does as it is told."""

from __future__ import annotations

import importlib.util
from collections import deque
from pathlib import Path

import pytest

from exporter.errors import ConfigError, SinkError
from exporter.sinks.kafka.client import Complaints, Places
from exporter.sinks.kafka.config import KafkaConfig
from exporter.sinks.kafka.deliver import KafkaDelivery
from exporter.sinks.kafka.encode import KafkaMessage, encode
from exporter.sinks.kafka.sink import connect
from exporter.testing import Row, make_batch

#: What becomes of a value whose source port is n: FATES[n], else it arrives.
Fates = dict[int, SinkError]


class Client:
    """
    Implements ``exporter.sinks.kafka.client.Client``.

    Args:
        fates: Values that fail, once each.
        slow: So many sends are not settled before they are asked for again.
    """

    def __init__(self, fates: Fates, slow: int = 0) -> None:
        self.complaints = Complaints("broker")
        self.broken = False
        self.sent: list[int] = []
        self.abandoned = 0
        self._fates = fates
        self._slow = slow
        self._failed: dict[int, SinkError] = {}
        self._under_way: set[int] = set()

    def connected(self, wait: float) -> bool:  # noqa: ARG002
        return True

    def partitions(self, wait: float) -> int:  # noqa: ARG002
        return 3

    def send(self, message: KafkaMessage, places: Places) -> None:
        ports = message.rows.src_port.tolist()
        for index in sorted(i for indices in places.values() for i in indices):
            self.sent.append(ports[index])
            if ports[index] in self._fates:
                self._failed[index] = self._fates.pop(ports[index])
            elif self._slow:
                self._under_way.add(index)

    def settled(self, wait: float) -> bool:  # noqa: ARG002
        if self._slow:
            self._slow -= 1
            return False
        self._under_way.clear()
        return True

    def failures(self) -> dict[int, SinkError]:
        failed, self._failed = self._failed, {}
        lost = dict.fromkeys(self._under_way, SinkError("unavailable", "lost", retryable=True))
        return failed | lost

    def abandon(self) -> None:
        self.abandoned += 1
        self.broken = True


AWAY = SinkError("unavailable", "away", retryable=True)
LARGE = SinkError("too_large", "large", retryable=False)
DENIED = SinkError("authentication", "denied", retryable=True)


def made(*clients: Client, **options: object) -> tuple[KafkaDelivery, KafkaMessage]:
    """A delivery that gets these clients, one after the other, and a message of ten records."""
    config = KafkaConfig.model_validate({"brokers": "h:1", "topic": "t"} | options)
    waiting = deque(clients)
    delivery = KafkaDelivery(config, lambda _: waiting.popleft())
    delivery.open()
    (message,) = encode(make_batch(*(Row(src_port=n) for n in range(10))), config)
    return delivery, message


def refused(delivery: KafkaDelivery, message: KafkaMessage, timeout: float = 0) -> SinkError:
    with pytest.raises(SinkError) as found:
        delivery.deliver(message, timeout)
    return found.value


def ports(message: KafkaMessage) -> list[int]:
    return [int(port) for port in message.rows.src_port]


def test_only_what_failed_is_sent_again() -> None:
    """Nine of ten arrived: the second attempt sends one."""
    client = Client({4: AWAY})
    delivery, message = made(client)
    assert refused(delivery, message) is AWAY
    delivery.deliver(message, 0)
    assert client.sent == [*range(10), 4]


def test_what_is_under_way_is_waited_for() -> None:
    """A second attempt sends nothing; the next message is sent as a whole."""
    client = Client({}, slow=2)
    delivery, message = made(client)
    err = refused(delivery, message)
    assert (err.reason, str(err)) == ("deadline", "deadline: broker: no answer in time")
    assert refused(delivery, message).reason == "deadline"
    delivery.deliver(message, 0)
    assert client.sent == list(range(10))
    (another,) = encode(message.rows, KafkaConfig(brokers=("h:1",), topic="t"))
    delivery.deliver(another, 0)
    assert client.sent == [*range(10)] * 2
    assert client.abandoned == 0


def test_another_message_gives_up_the_last() -> None:
    """A message that the fan-out gave up while it was under way is not waited for."""
    first, second = Client({}, slow=1), Client({})
    delivery, message = made(first, second)
    refused(delivery, message)
    (another,) = encode(message.rows.take(slice(3)), KafkaConfig(brokers=("h:1",), topic="t"))
    delivery.deliver(another, 0)
    assert first.abandoned == 1
    assert second.sent == [0, 1, 2]


def test_a_client_that_broke_is_replaced() -> None:
    """And sends what has not arrived."""
    first, second = Client({2: AWAY, 3: AWAY}), Client({})
    delivery, message = made(first, second)
    refused(delivery, message)
    first.broken = True
    delivery.deliver(message, 0)
    assert second.sent == [2, 3]


def test_credentials_that_change(tmp_path: Path) -> None:
    """
    A new client, which sends what was under way again; files that cannot be used are retryable.
    """
    password = tmp_path / "password"
    password.write_text("one")
    first, second = Client({}, slow=1), Client({})
    delivery, message = made(first, second, sasl={"username": "me", "password_file": str(password)})
    assert refused(delivery, message).reason == "deadline"
    password.write_text("other")
    delivery.deliver(message, 0)
    assert first.abandoned == 1
    assert second.sent == list(range(10))


def test_credentials_that_cannot_be_used(tmp_path: Path) -> None:
    """Half of a pair, say: retryable, until the rest is there."""
    password = tmp_path / "password"
    password.write_text("one")
    config = KafkaConfig.model_validate(
        {"brokers": "h:1", "topic": "t", "sasl": {"username": "me", "password_file": password}}
    )
    client, failing = Client({}), False

    def connect(_: KafkaConfig) -> Client:
        if failing:
            raise ConfigError("password is empty")
        return client

    delivery = KafkaDelivery(config, connect)
    delivery.open()
    (message,) = encode(make_batch(Row()), config)
    failing = True
    password.write_text("")
    for _ in range(2):
        err = refused(delivery, message)
        assert (err.reason, err.retryable) == ("credentials", True)
    failing = False
    client.broken = False
    delivery.deliver(message, 0)


def test_refused_for_who_we_are() -> None:
    """Libraries remember that: the next attempt connects anew."""
    first, second = Client({}, slow=1), Client({})
    delivery, message = made(first, second)
    first.complaints.begin = lambda: None  # type: ignore[method-assign]
    first.complaints.note("authentication", "bad password")
    first.complaints.note("unavailable", "all brokers are down")
    err = refused(delivery, message)
    assert str(err) == "authentication: broker: bad password"
    delivery.deliver(message, 0)
    assert second.sent == list(range(10))


def test_split_keeps_the_books() -> None:
    """What arrived is a part with nothing to send; what is too large comes in halves."""
    client = Client({1: LARGE, 7: LARGE, 8: LARGE})
    delivery, message = made(client)
    err = refused(delivery, message)
    assert (err.reason, err.retryable) == ("too_large", False)
    done, one, two = delivery.split(message)
    assert (ports(done), done.values) == ([0, 2, 3, 4, 5, 6, 9], [])
    assert [ports(one), ports(two)] == [[1], [7, 8]]
    sent = len(client.sent)
    delivery.deliver(done, 0)
    assert len(client.sent) == sent
    assert one.keys is not None
    assert message.keys is not None
    assert one.keys == [message.keys[1]]
    assert one.values == [message.values[1]]
    assert list(delivery.split(one)) == []


def test_too_large_waits_for_the_rest() -> None:
    """A value that failed otherwise is sent again before the message is split."""
    client = Client({1: LARGE, 2: AWAY})
    delivery, message = made(client)
    assert refused(delivery, message).reason == "unavailable"
    assert refused(delivery, message).reason == "too_large"
    done, one = delivery.split(message)
    assert (ports(done), ports(one)) == ([0, *range(2, 10)], [1])


def test_a_packed_value_is_halved() -> None:
    """Until it is one record."""
    client = Client({0: LARGE})
    delivery, message = made(client, layout="packed")
    assert message.counts == [10]
    refused(delivery, message)
    one, two = delivery.split(message)
    assert [ports(one), ports(two)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert [one.counts, two.counts] == [[5], [5]]


@pytest.mark.parametrize(
    ("wanted", "installed", "expected"),
    [
        ("auto", True, "confluent"),
        ("auto", False, "kafka_python"),
        ("kafka-python", True, "kafka_python"),
        ("confluent", True, "confluent"),
    ],
)
def test_which_client(
    monkeypatch: pytest.MonkeyPatch, wanted: str, installed: bool, expected: str
) -> None:
    """The one that is asked for; else confluent-kafka where it is installed."""
    found = importlib.util.find_spec("kafka") if installed else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    for module, name in (("confluent", "ConfluentClient"), ("kafka_python", "KafkaPythonClient")):
        monkeypatch.setattr(f"exporter.sinks.kafka.{module}.{name}", lambda _, chose=module: chose)
    config = KafkaConfig.model_validate({"brokers": "h:1", "topic": "t", "client": wanted})
    chosen: object = connect(config)
    assert chosen == expected


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    config = KafkaConfig(brokers=("h:1",), topic="t", client="confluent")
    with pytest.raises(ConfigError, match=r"pip install 'flow-exporter\[confluent\]'"):
        connect(config)


def test_closed() -> None:
    """Nothing is sent any more; closing again is fine."""
    client = Client({})
    delivery, message = made(client)
    delivery.close()
    delivery.close()
    err = refused(delivery, message)
    assert (err.reason, err.retryable) == ("cancelled", True)
    assert client.abandoned == 1
