"""
What counting once takes of ClickHouse: ``counted_once`` over two million records of one hour.

Conversations that two agents both report, with interfaces and names. CPU time, and the most that
the process had in memory, less what it had before; chDB, the same engine.
"""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from pathlib import Path

from benchmarks.report import Table
from tests.e2e.clickhouse import ClickHouse

ROWS, CONVERSATIONS = 2_000_000, 20_000
#: An hour of yesterday: older ones the tables forget.
_BEGUN = int(time.time()) // 86_400 * 86_400 - 43_200
_FILL = f"""
INSERT INTO flows.records
    (agent, src_addr, dst_addr, src_port, dst_port, ip_protocol, src_mac,
     flow_start, flow_end, packets, octets_l2, interfaces, interface_directions, src_name, dst_name)
SELECT if(number % 2 = 0, '::ffff:192.0.2.1', '::ffff:192.0.2.2'),
       toIPv6('::ffff:10.0.0.1'), toIPv6('::ffff:10.0.0.2'),
       1024 + intDiv(number, 2) % {CONVERSATIONS}, 443, 6, 1,
       fromUnixTimestamp64Milli({1000 * _BEGUN} + intDiv(3600000 * number, {ROWS})) AS begun,
       begun, 10, 1000, ['veth01234567', 'eth0'], [0, 1],
       concat('shop-5d4f8c7b9-', toString(number % 1000)),
       concat('web-7f6b8c-', toString(number % 999))
FROM numbers({ROWS})
"""
_HOUR = "from = '{:%F %T}', until = '{:%F %T}', gap = 30".format(
    *(dt.datetime.fromtimestamp(_BEGUN + more, dt.UTC) for more in (0, 3600))
)


def run() -> Table:
    """Seconds and MB."""
    table = Table(
        "counted",
        f"counted_once over {ROWS:,} records of one hour, in ClickHouse's engine",
        ("what", "CPU s", "MB more"),
    )
    with tempfile.TemporaryDirectory() as directory:
        filled, asked = Path(directory, "filled"), Path(directory, "asked")
        with ClickHouse(filled) as clickhouse:
            for name in ("flows", "counted-once"):
                clickhouse.run(f"{name}.sql")
            clickhouse.execute(_FILL)
        # Another process: what inserting has left in memory would be reused.
        asked.mkdir()
        (asked / "data").symlink_to(filled / "data")
        with ClickHouse(asked) as clickhouse:
            assert clickhouse.one("SELECT count() FROM flows.records") == (ROWS,)
            process = Path(f"/proc/{clickhouse._process.pid}")
            before, cpu = _peak(process), clickhouse.cpu()
            (packets,) = clickhouse.one(f"SELECT sum(packets) FROM flows.counted_once({_HOUR})")
            spent = clickhouse.cpu() - cpu
            # Of the two that report each conversation one is taken.
            assert packets == 10 * ROWS // 2
            more = _peak(process) - before
            table.add("counted_once", f"{spent:.1f}", f"{more:.0f}")
    return table


def _peak(process: Path) -> float:
    status = (process / "status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
