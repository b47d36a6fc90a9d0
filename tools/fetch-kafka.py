"""
Fetch Apache Kafka's broker from Maven Central into the cache: ``python tools/fetch-kafka.py``.

The jars that it needs, with their SHA-256, are pinned in kafka.jars, which was made by following
the dependencies of org.apache.kafka:kafka_2.13 through their POMs. What is there already and whole
is left alone. The cache is TEST_KAFKA_CACHE, else ~/.cache/flow-exporter/kafka-VERSION.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BASE = "https://repo1.maven.org/maven2/"
_PINS = Path(__file__).with_name("kafka.jars")


def pins() -> list[tuple[str, str]]:
    """SHA-256 and path of every jar."""
    rows = (line.split() for line in _PINS.read_text().splitlines())
    return [(digest, path) for digest, path in rows]


def cache() -> Path:
    """Where the jars are."""
    chosen = os.environ.get("TEST_KAFKA_CACHE")
    version = next(path.split("/")[-2] for _, path in pins() if "/kafka_2.13/" in path)
    return Path(chosen) if chosen else Path.home() / f".cache/flow-exporter/kafka-{version}"


def fetch(digest: str, path: str) -> str:
    """One jar. Returns what is wrong; empty if nothing is."""
    target = cache() / path.rpartition("/")[2]
    if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
        return ""
    try:
        with urllib.request.urlopen(_BASE + path, timeout=60) as answer:  # noqa: S310 - https
            octets = answer.read()
    except OSError as err:
        return f"{path}: {err}"
    if hashlib.sha256(octets).hexdigest() != digest:
        return f"{path}: not what is pinned"
    # Renamed: another process that fetches at the same time never sees half a jar.
    part = target.with_suffix(f".{os.getpid()}")
    part.write_bytes(octets)
    part.rename(target)
    return ""


def main() -> int:
    """Fetch what is missing."""
    cache().mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(4) as pool:
        wrong = [text for text in pool.map(lambda pin: fetch(*pin), pins()) if text]
    for text in wrong:
        print(f"setup: cannot fetch {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
