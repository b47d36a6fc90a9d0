"""Says on every record where the host is that saw it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from pydantic import ValidationError

from exporter.batch.attributes import Attribute, Entities
from exporter.batch.batch import FlowBatch
from exporter.enrich.base import State
from exporter.enrich.cloud.config import CloudConfig, Place
from exporter.enrich.cloud.metadata import MetadataError, Service, find
from exporter.enrich.files import Files, read_octets
from exporter.errors import ConfigError

log = logging.getLogger(__name__)

#: ECS's fields of the host that observed, which are OpenTelemetry's but for the instance.
FIELDS: dict[str, Attribute] = {
    "provider": Attribute("cloud.provider", "Cloud of the agent's host."),
    "account": Attribute("cloud.account.id", "Its account, project or subscription."),
    "region": Attribute("cloud.region", "Its region."),
    "zone": Attribute("cloud.availability_zone", "Its availability zone."),
    "instance": Attribute("cloud.instance.id", "Its id."),
    "machine": Attribute("cloud.machine.type", "Its type."),
}
_LARGEST = 64 << 10
#: Seconds until the metadata service is asked again: it may not be up yet when the host is.
_AGAIN = (1.0, 2.0, 5.0, 15.0, 60.0)


class CloudPlace:
    """
    Adds the same to every row.

    What is configured wins over the file, the file over the metadata service.

    Args:
        config: Nothing is asked before :meth:`open`.
    """

    name = "cloud"
    requires: tuple[str, ...] = ("key",)
    provides: tuple[str, ...] = ("entities",)
    attributes: tuple[Attribute, ...] = tuple(FIELDS.values())

    def __init__(self, config: CloudConfig) -> None:
        self._config = config
        self._files = Files((config.file,) if config.file else (), _read, self._use)
        self._asked = Place()
        self._filed = Place()
        self._problem = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Read the file, begin to ask."""
        self._files.open()
        if self._config.metadata != "none" and self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._ask, name="enrich-cloud", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ask no more. Waits for an answer that is on its way, but no longer than it may take."""
        self._files.close()
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._config.metadata_timeout)
            self._thread = None

    def state(self) -> State:
        """``entries`` is 1 once something is known."""
        return State(self._files.problem or self._problem, entries=int(self._now() != Place()))

    def apply(self, batch: FlowBatch) -> FlowBatch:
        """Add what is known now."""
        place = self._now()
        values = {FIELDS[key]: (None, getattr(place, key)) for key in FIELDS if getattr(place, key)}
        if not values or not len(batch):
            return batch
        added = Entities(np.ones(len(batch), np.uint32), values)
        return replace(batch, entities=(*batch.entities, added))

    def _now(self) -> Place:
        return self._config.over(self._filed).over(self._asked)

    def _use(self, files: Mapping[Path, Place]) -> None:
        self._filed = next(iter(files.values()))

    def _ask(self) -> None:
        service = Service(self._config.metadata_address, self._config.metadata_timeout)
        attempt = 0
        while not self._stop.is_set():
            try:
                self._asked = find(service, self._config.metadata)
            except MetadataError as err:
                if not attempt:
                    log.warning("the instance metadata service is asked again: %s", err)
                self._problem = str(err)
            else:
                self._problem = ""
                return
            self._stop.wait(_AGAIN[min(attempt, len(_AGAIN) - 1)])
            attempt += 1


def _read(path: Path) -> Place:
    """
    What a file says.

    Raises:
        ConfigError: If it is no mapping of the keys of :class:`Place`.
    """
    try:
        # All scalars as text: an account is digits. The C code crashes on what is nested deeply.
        content = yaml.load(read_octets(path, _LARGEST), Loader=yaml.BaseLoader)  # noqa: S506
        return Place.model_validate(content or {})
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"{path}: {where}: {first['msg']}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(err).split())[:200]}") from None
