"""
ClickHouse: chDB, which is ClickHouse's own engine as a library, in a process of its own.

It runs the SQL files of docs/downstream/clickhouse as they are, its Kafka engine included. There is
no server, which shows in two places. Format schemas are looked for where the process runs. And a
table of the Kafka engine is made, and works, but the statement ends with an error: the list of
those that are stopped with the server is closed from the beginning.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from tests.conftest import missing
from tests.patience import LONGEST, wait_until

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "downstream" / "clickhouse"
#: Where tools/setup-clickhouse.sh puts it.
CACHE = Path(
    os.environ.get("TEST_CHDB_CACHE", Path.home() / ".cache" / "flow-exporter" / "chdb-26.9.0")
)


#: What it says once a table of the Kafka engine is there.
_NO_SERVER = "Shutdown was called"


class SqlError(AssertionError):
    """What ClickHouse refused, in its words."""


class ClickHouse:
    """
    The process, which answers one query after the other.

    Args:
        directory: For its tables and the format schemas.
    """

    def __init__(self, directory: Path) -> None:
        if not (CACHE / "chdb").exists():
            missing(f"{CACHE}: tools/setup-clickhouse.sh fetches it")
        schemas = directory / "schemas"
        (schemas / "google" / "protobuf").mkdir(parents=True)
        shutil.copy(ROOT / "proto" / "flow.proto", schemas)
        found = find_spec("grpc_tools")
        assert found is not None
        assert found.submodule_search_locations is not None
        google = Path(found.submodule_search_locations[0], "_proto", "google", "protobuf")
        # A server has them at google_protos_path.
        for name in ("duration", "timestamp"):
            shutil.copy(google / f"{name}.proto", schemas / "google" / "protobuf")
        self._log = (directory / "chdb.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.clickhouse", str(directory / "data")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            cwd=schemas, env={**os.environ, "PYTHONPATH": f"{CACHE}:{ROOT}"},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Its tables are thrown away: there is nothing to close in order.
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def run(self, name: str, replaced: dict[str, str] | None = None) -> None:
        """
        Run a file of docs/downstream/clickhouse.

        Args:
            name: Of the file.
            replaced: Words of it that are others here: where the broker is. Each must be there.
        """
        text = (FILES / name).read_text()
        for word, other in (replaced or {}).items():
            assert word in text, word
            text = text.replace(word, other)
        for statement in text.split(";\n"):
            if statement.strip():
                self.execute(statement)

    def follow(self, layout: str, broker: str, topic: str, flush: int = 200) -> None:
        """Let the Kafka engine read a topic from its beginning; it waits so many ms for a block."""
        self.run(
            f"kafka-{layout}.sql",
            {
                "kafka:9092": broker,
                "network-flows": topic,
                # A group whose member was killed waits for it.
                "'clickhouse'": f"'{topic}'",
                "flush_interval_ms = 7500": f"flush_interval_ms = {flush}",
            },
        )

    def wait_for(self, records: int, patience: float = LONGEST) -> None:
        """Until so many are in flows.records and in the sums; what went wrong, if they are not."""
        there: tuple[int, ...] = ()

        def complete() -> bool:
            nonlocal there
            # The sums of a block are there after its rows.
            there = self.one(
                "SELECT count(), countIf(NOT duplicate) AS counted,"
                " (SELECT sum(records) FROM flows.pairs) AS pairs,"
                " (SELECT sum(records) FROM flows.workloads) AS workloads FROM flows.records"
            )
            return there[0] >= records and there[1] == there[2] == there[3]

        try:
            wait_until(complete, f"{records} rows", patience)
        except AssertionError as err:
            said = self.rows("SELECT exceptions.text AS said FROM system.kafka_consumers")
            raise AssertionError(f"{there} rows; Kafka's engine says {said}") from err
        assert there[0] == records

    def wait_until_one(self, query: str, value: int) -> None:
        """Until the only value of a query is this."""
        wait_until(lambda: self.one(query) == (value,), f"{query} is {value}")

    def cpu(self) -> float:
        """Seconds of CPU time that it has used."""
        return cpu_seconds(self._process.pid)

    def execute(self, statement: str) -> None:
        """Run a statement. Raises SqlError."""
        try:
            self._ask(statement, "Null")
        except SqlError as err:
            if "ENGINE = Kafka" not in statement or _NO_SERVER not in str(err):
                raise

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query gives, column -> value; 64-bit integers are integers."""
        lines = self._ask(query, "JSONEachRow").splitlines()
        return [json.loads(line) for line in lines]

    def one(self, query: str) -> tuple[Any, ...]:
        """The only row."""
        (row,) = self.rows(query)
        return tuple(row.values())

    def _ask(self, query: str, form: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([query, form]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"chDB ended: {Path(self._log.name).read_text()}"
        answer = json.loads(line)
        if "error" in answer:
            raise SqlError(f"{answer['error']}\n{query}")
        return str(answer["text"])


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, all threads, user and system."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _serve(directory: str) -> None:
    """Queries from standard input, answers to standard output, one JSON text a line."""
    from chdb import session

    # Whatever the library prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    opened = session.Session(directory)
    opened.query("SET output_format_json_quote_64bit_integers = 0", "Null")
    for line in sys.stdin:
        query, form = json.loads(line)
        try:
            answer = {"text": str(opened.query(query, form))}
        except RuntimeError as err:
            answer = {"error": str(err)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1])
