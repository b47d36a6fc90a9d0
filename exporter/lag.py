"""
How far consumer groups are behind on a topic: what they have committed against what is there.

Metrics are called as those of kafka_exporter, which boards and alerts may have already. Reads only:
joins no group and commits nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exporter.errors import ExporterError
from exporter.telemetry import exposition


@dataclass(frozen=True)
class Place:
    """
    A group at a partition.

    Args:
        group: Who reads.
        topic: What.
        partition: Of it.
        read: The committed offset: the next message that the group wants; ``None`` if it has
            never committed one of this partition.
        first: Offset of the oldest message that is still there.
        end: Offset of the next message to come.
    """

    group: str
    topic: str
    partition: int
    read: int | None
    first: int
    end: int

    @property
    def lag(self) -> int:
        """
        Messages to read: all that are there, where nothing was committed. A topic that was made
        anew may end before what was committed of the old one: nothing is to be read then.
        """
        return max(0, self.end - (self.first if self.read is None else self.read))


@dataclass(frozen=True)
class Lags:
    """``ends`` by partition; ``places`` in order of group and partition."""

    topic: str
    ends: Mapping[int, int]
    places: list[Place]


class Groups:
    """
    Asks the brokers. From any thread, one question at a time.

    Args:
        settings: Of kafka-python's clients.
        topic: That groups read.
        groups: Which of them; all that have committed something of it if there are none.
    """

    def __init__(
        self, settings: Mapping[str, Any], topic: str, groups: Collection[str] = ()
    ) -> None:
        # An administrator has no such setting.
        self._settings = {key: value for key, value in settings.items() if key != "metrics_enabled"}
        self._topic = topic
        self._groups = groups
        self._lock = threading.Lock()
        self._admin: Any = None

    def read(self) -> Lags:
        """
        All of it, now.

        Raises:
            ExporterError: If the brokers do not answer, or there is no such topic.
        """
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError, UnknownTopicOrPartitionError

        with self._lock:
            try:
                if self._admin is None:
                    self._admin = KafkaAdminClient(**self._settings)
                return self._ask(self._admin)
            except UnknownTopicOrPartitionError:
                raise ExporterError(f"there is no topic {self._topic}") from None
            except KafkaError as err:
                self._drop()
                brokers = ",".join(self._settings["bootstrap_servers"])
                raise ExporterError(f"{brokers}: {' '.join(str(err).split())}") from err

    def close(self) -> None:
        """Again is fine."""
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _ask(self, admin: Any) -> Lags:
        from kafka.admin import OffsetSpec

        places = self._partitions(admin)
        names = self._groups or [
            # Others, as those of Kafka Connect's workers, commit nothing.
            one["group_id"]
            for one in admin.list_groups()
            if one["protocol_type"] in ("consumer", "")
        ]
        committed = admin.list_group_offsets(dict.fromkeys(names)) if names else {}
        # After what was committed: an end that is older would be before it.
        first, end = (
            {
                place.partition: found.offset
                for place, found in admin.list_partition_offsets(
                    dict.fromkeys(places, spec)
                ).items()
            }
            for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST)
        )
        found = []
        for group in sorted(committed):
            read = {
                place.partition: at.offset
                for place, at in committed[group].items()
                if place.topic == self._topic and at.offset >= 0
            }
            # One that never read the topic is no reader of it.
            for number in sorted(end) if read else ():
                place = Place(
                    group, self._topic, number, read.get(number), first[number], end[number]
                )
                found.append(place)
        return Lags(self._topic, end, found)

    def _partitions(self, admin: Any) -> list[Any]:
        from kafka import TopicPartition
        from kafka.errors import for_code

        (found,) = admin.describe_topics([self._topic])
        if found["error_code"]:
            raise for_code(found["error_code"])(self._topic)
        return [TopicPartition(self._topic, one["partition_index"]) for one in found["partitions"]]


def metrics(lags: Lags) -> bytes:
    """The text that Prometheus scrapes."""

    class Collector:
        def collect(self) -> Iterator[Any]:
            return _families(lags)

    return exposition(Collector())


def _families(lags: Lags) -> Iterator[Any]:
    from prometheus_client.core import GaugeMetricFamily

    end = GaugeMetricFamily(
        "kafka_topic_partition_current_offset",
        "Offset of the next message to come.",
        labels=["topic", "partition"],
    )
    for partition, offset in lags.ends.items():
        end.add_metric([lags.topic, str(partition)], offset)
    labels = ["consumergroup", "topic", "partition"]
    read = GaugeMetricFamily(
        "kafka_consumergroup_current_offset", "Offset that a group has committed.", labels=labels
    )
    lag = GaugeMetricFamily(
        "kafka_consumergroup_lag", "Messages that a group has not committed yet.", labels=labels
    )
    for one in lags.places:
        which = [one.group, one.topic, str(one.partition)]
        if one.read is not None:
            read.add_metric(which, one.read)
        lag.add_metric(which, one.lag)
    yield from (end, read, lag)
