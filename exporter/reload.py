"""
What a changed configuration means for an agent that runs: sinks come, go and are pointed elsewhere,
labels and exclusions are others from the next drain on; everything else needs a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from exporter.config import Config
from exporter.errors import ConfigError
from exporter.sinks.table import SinkConfig

#: What is applied without a restart; every other section is not.
_LIVE = ("sinks", "exclude", "shutdown_timeout", "log_level")
#: Likewise, of sections that need one for the rest.
_LIVE_KEYS = {"enrich": ("labels", "derive")}


@dataclass(frozen=True)
class Plan:
    """
    The way from one configuration to another.

    Args:
        config: What is in effect afterwards; all sinks have names.
        add, retarget: Sinks to make; the latter go on with the queue of the one of their name.
        remove: Names.
        ignored: Keys whose new values need a restart.
        expressions: Keys of labels and exclusions that are others now.
    """

    config: Config
    add: tuple[SinkConfig, ...]
    retarget: tuple[SinkConfig, ...]
    remove: tuple[str, ...]
    ignored: tuple[str, ...]
    expressions: tuple[str, ...] = ()

    def __str__(self) -> str:
        done = [f"sink {sink.name} added" for sink in self.add]
        done += [f"sink {sink.name} changed" for sink in self.retarget]
        done += [f"sink {name} removed" for name in self.remove]
        done += [f"{key} changed" for key in self.expressions]
        return ", ".join(done) or "no sink changed"


def plan(old: Config, new: Config) -> Plan:
    """
    Compare configurations.

    Args:
        old: In effect; all sinks have names.
        new: Validated.

    Raises:
        ConfigError: If two sinks have the same name.
    """
    fixed = [name for name in Config.model_fields if name not in _LIVE]
    live = [f"{name}.{key}" for name, keys in _LIVE_KEYS.items() for key in keys]
    changed = [key for name in (*fixed, "exclude") for key in _changes(old, new, name)]
    ignored = [key for key in changed if key not in (*live, "exclude")]
    before = {sink.name: sink for sink in old.sinks}
    sinks: list[SinkConfig] = []
    for sink in named(new.sinks, old.sinks):
        kept = sink
        if sink.name in before:
            kept = _with_spool_of(before[sink.name], sink, old, new)
            ignored += [f"sinks.{sink.name}.spool"] if kept != sink else []
        sinks.append(kept)
    kept_sections = {name: _kept(getattr(old, name), getattr(new, name), name) for name in fixed}
    names = {sink.name for sink in sinks}
    return Plan(
        config=new.model_copy(update={**kept_sections, "sinks": tuple(sinks)}),
        add=tuple(sink for sink in sinks if sink.name not in before),
        retarget=tuple(s for s in sinks if s.name in before and s != before[s.name]),
        remove=tuple(name for name in before if name not in names),
        ignored=tuple(ignored),
        expressions=tuple(key for key in changed if key in (*live, "exclude")),
    )


def named(
    sinks: tuple[SinkConfig, ...], before: tuple[SinkConfig, ...] = ()
) -> tuple[SinkConfig, ...]:
    """
    Sinks whose names are all set and differ: the given ones, else the type with a number.

    Args:
        sinks: As configured.
        before: With their names: one that is configured as before keeps its name.

    Raises:
        ConfigError: If two were given the same name.
    """
    taken: set[str] = {sink.name for sink in sinks if sink.name}
    if len(taken) < sum(1 for sink in sinks if sink.name):
        raise ConfigError("two sinks have the same name")
    names = [sink.name for sink in sinks]
    for position, sink in enumerate(sinks):
        for one in () if sink.name else before:
            if one.name not in taken and one.model_copy(update={"name": ""}) == sink:
                names[position] = one.name
                taken.add(one.name)
                break
    for position, sink in enumerate(sinks):
        number = 1
        while not names[position]:
            name = f"{sink.type}{number}" if number > 1 else sink.type
            names[position] = "" if name in taken else name
            number += 1
        taken.add(names[position])
    return tuple(
        sink.model_copy(update={"name": name}) for sink, name in zip(sinks, names, strict=True)
    )


def _with_spool_of(old: SinkConfig, new: SinkConfig, before: Config, after: Config) -> SinkConfig:
    """A sink that goes on with its queue: what is on disk stays where it is."""
    if before.spool_of(old) == after.spool_of(new):
        return new
    policy = old.queue.when_full
    queue = new.queue.model_copy(update={"when_full": policy})
    return new.model_copy(update={"spool": old.spool, "queue": queue})


def _kept(old: Any, new: Any, name: str) -> Any:
    """A section as it was, but for what is applied without a restart."""
    live = {key: getattr(new, key) for key in _LIVE_KEYS.get(name, ())}
    return old.model_copy(update=live) if live else old


def _changes(old: Config, new: Config, name: str) -> list[str]:
    one, other = (_plain(getattr(config, name)) for config in (old, new))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [name] if one != other else []
    return [f"{name}.{key}" for key in one if one[key] != other.get(key)]


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else value
