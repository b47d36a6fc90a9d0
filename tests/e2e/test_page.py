"""The page at the metrics address, in a real browser beside a real agent."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest

from exporter.cli import main
from tests import patience
from tests.e2e import traffic
from tests.e2e.agent import Agent
from tests.e2e.browser import Browser
from tests.e2e.net import End, Netns, Network, connect, disconnect, no_offload, plug
from tests.e2e.test_exact import ADDRESSES, V4

URL = "http://127.0.0.1:9401/"
#: What a container may call its interface: no slash, no space, fifteen octets.
HOSTILE = '"><b>hostile'
#: What a configuration may call a sink, written by who is no friend.
SINK = "<img src=x onerror=document.title='taken'>"
#: The page has had data.
UPDATED = "document.querySelector('#state').textContent.startsWith('updated')"
#: Rows of a table, by their first cell: the other cells.
ROWS = """Object.fromEntries([...document.querySelectorAll("#{} tbody tr")].map(row =>
    [row.cells[0].textContent, [...row.cells].slice(1).map(cell => cell.textContent)]))"""


@contextmanager
def agent_with_a_page(network: Network, directory: Path) -> Iterator[tuple[Agent, End, End]]:
    """An agent at one end of a pair that is still down; the end has a hostile name."""
    one, other = End(network.namespace("a"), HOSTILE), End(network.namespace("b"), "vb")
    plug(one, other)
    no_offload(one)
    no_offload(other)
    config = directory / "config.yaml"
    sinks = [{"type": "null", "name": SINK}]
    config.write_text(json.dumps({"sinks": sinks, "metrics": {"page": True}}))
    with Agent(
        one.netns, directory, "--config", str(config), "--drain-interval", "0.3s",
        "--metrics-address", "127.0.0.1:9401", "--exclude-interfaces", "lo",
    ) as agent:  # fmt: skip
        yield agent, one, other


def number(text: str) -> int:
    """As the page writes it."""
    return int(text.replace(",", ""))


def test_numbers_are_those_of_the_ledger_and_of_the_sender(
    network: Network, tmp_path: Path
) -> None:
    """Every account of the ledger, and what each address sent and got, to the octet."""
    with (
        agent_with_a_page(network, tmp_path) as (agent, one, other),
        Browser(one.netns, tmp_path) as browser,
    ):
        browser.open(URL)
        browser.wait(UPDATED)
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 200, "--size", 1000)
        counters = disconnect(one)
        ledger = agent.wait_drained()
        seen = counters.rx_packets + counters.tx_packets
        browser.wait(f"refresh() && ({ROWS.format('ledger')}).seen?.[0] === '{seen:,}'")
        table = browser.say(ROWS.format("ledger"))
        accounts = {**ledger, **ledger["kernel"]}
        for name in ("seen", "aggregated", "ring", "not_ip", "malformed", "drained",
                     "deduplicated", "published"):  # fmt: skip
            numbers = [number(cell) for cell in table[name.replace("_", " ")]]
            assert numbers == [accounts[name]["packets"], accounts[name]["octets"]], name
        assert number(table["seen"][1]) == counters.rx_octets + counters.tx_octets
        assert browser.say("document.querySelector('#closes').textContent") == "closes"
        delivered = ledger["sinks"][SINK]["delivered"]
        sinks = browser.say(ROWS.format("sinks"))
        assert [number(cell) for cell in sinks["delivered"]] == [
            delivered["flows"], delivered["packets"],
        ]  # fmt: skip
        # 200 echo requests and as many replies of 14 + 20 + 8 + 1000 octets.
        expected = f"{2 * 200 * 1042:,}"
        for address in V4:
            browser.wait(
                f"refresh() && ({ROWS.format('talkers')})['{address}']?.[3] === '{expected}'"
            )
        assert agent.stop() == 0, agent.log


def test_names_are_text(network: Network, tmp_path: Path) -> None:
    """
    A name that is HTML stands there as it is, nothing runs, and nothing comes from elsewhere; the
    page renews itself.
    """
    with (
        agent_with_a_page(network, tmp_path) as (agent, one, other),
        Browser(one.netns, tmp_path) as browser,
    ):
        browser.open(f"{URL}#interfaces")
        browser.wait(UPDATED)
        connect(one, other, ADDRESSES)
        traffic.run(one.netns, "icmp", "--host", V4[1], "--count", 20, "--size", 8)
        for name in (f"{HOSTILE} in", f"{HOSTILE} out"):
            browser.wait(f"{json.dumps(name)} in {ROWS.format('talkers')}")
        assert browser.say("document.querySelector('#view').value") == "interfaces"
        assert SINK in browser.say(ROWS.format("sinks"))
        assert f"sink {SINK}: closed" in browser.say("document.querySelector('#ready').innerText")
        assert browser.say("document.querySelectorAll('img').length") == 0
        assert browser.say("document.querySelectorAll('b:not(.tile b)').length") == 0
        assert browser.say("document.title") == "flow-exporter"
        assert_readable(browser)
        # Not even a script that got in could do anything: the policy is the browser's to keep.
        browser.say("document.body.insertAdjacentHTML('beforeend', " + json.dumps(SINK) + ")")
        browser.say("fetch('http://127.0.0.2:9401/').catch(() => document.body.id = 'refused')")
        browser.wait("document.body.id === 'refused'")
        assert browser.say("document.title") == "flow-exporter"
        browser.wait("true")
        assert any("Content Security Policy" in line for line in browser.complaints)
        asked = {url for url in browser.requests if "127.0.0.2" not in url}
        assert [url for url in asked if not url.startswith(URL)] == []
        assert agent.stop() == 0, agent.log


def assert_readable(browser: Browser) -> None:
    """
    Light and dark, on a wide and on a narrow screen: nothing sticks out, and text stands out by
    4.5 to 1.
    """
    for dark, width in product((False, True), (1280, 360)):
        assert browser.look(dark=dark, width=width).startswith(b"\x89PNG")
        assert browser.say("document.documentElement.scrollWidth") <= width
        for where in ("body", "h1 span", "th", "td", ".tile span", ".badge", "select"):
            text, back = (colour(browser, where, what) for what in ("color", "background"))
            assert contrast(text, back) >= 4.5, (where, dark)


def colour(browser: Browser, where: str, what: str) -> tuple[int, ...]:
    """Of an element's text, or of what is behind it."""
    if what == "color":
        found = browser.say(f"getComputedStyle(document.querySelector('{where}')).color")
    else:
        found = browser.say(f"""(() => {{
            let one = document.querySelector('{where}');
            const of = () => getComputedStyle(one).backgroundColor;
            while (of() === 'rgba(0, 0, 0, 0)' && one.parentElement) one = one.parentElement;
            return of();
        }})()""")
    return tuple(int(part) for part in re.findall(r"\d+", found)[:3])


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Source: WCAG 2.1, contrast ratio and relative luminance."""

    def luminance(colour: tuple[int, ...]) -> float:
        parts = [part / 255 for part in colour]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_not_unless_asked(network: Network, tmp_path: Path) -> None:
    """Without metrics.page there is no page, and no data for one."""
    one = network.namespace("a")
    arguments = ["--sink", "null", "--metrics-address", "127.0.0.1:9401"]
    with Agent(one, tmp_path, *arguments) as agent:
        for path in ("/", "/page/talkers", "/config", "/log"):
            assert fetch(one, path)[0] == 404
        assert fetch(one, "/healthz")[0] == 200
        assert agent.stop() == 0, agent.log


def fetch(netns: Netns, path: str) -> tuple[int, dict[str, str]]:
    """Status and headers."""
    with netns.entered():
        connection = http.client.HTTPConnection("127.0.0.1", 9401, timeout=patience.LONGEST)
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, dict(response.getheaders())


def test_without_an_address(capsys: pytest.CaptureFixture[str]) -> None:
    """One line that says what is missing."""
    assert main(["check", "--page"]) == 2
    assert "the page is served at metrics.address: give it one" in capsys.readouterr().err
