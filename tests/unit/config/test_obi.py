"""OBI's environment variables: networks, and nothing else."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from exporter.config import Config, load
from exporter.enrich.networks.source import NetworkNames
from exporter.errors import ConfigError
from tests.unit.enrich.test_prefixes import addresses

NAME = "network.name"


def names(config: Config, *texts: str) -> list[str | None]:
    """Of the networks of addresses."""
    assert config.enrich.networks is not None
    found = NetworkNames(config.enrich.networks).look_up(addresses(list(texts)))
    (column,) = [values for what, values in found.values.items() if what.path == NAME]
    return [column[number] for number in found.numbers]


@pytest.mark.parametrize("variable", ["OTEL_EBPF_NETWORK_CIDRS", "BEYLA_NETWORK_CIDRS"])
def test_networks(variable: str) -> None:
    """The narrowest is the address's, by itself as its name; of others there is none."""
    networks = ["10.0.0.0/8", "10.30.0.0/16", "10.30.1.0/24", "2001:db8::/32"]
    config = load(None, {variable: ", ".join(networks)}, {})
    asked = ["10.1.2.3", "10.30.2.1", "10.30.1.255", "2001:db8:ffff::1", "192.0.2.1", "2001:db9::"]
    expected = [
        max(
            (one for one in networks if ipaddress.ip_address(text) in ipaddress.ip_network(one)),
            key=lambda one: int(one.partition("/")[2]),
            default=None,
        )
        for text in asked
    ]
    assert names(config, *asked) == expected
    assert expected[-2:] == [None, None]


def test_which_wins(tmp_path: Path) -> None:
    """OBI's over Beyla's, and our own over both; what is beside the list is kept."""
    both = {"OTEL_EBPF_NETWORK_CIDRS": "10.0.0.0/8", "BEYLA_NETWORK_CIDRS": "10.1.0.0/16"}
    assert names(load(None, both, {}), "10.1.0.1") == ["10.0.0.0/8"]
    table = tmp_path / "table.csv"
    table.write_text("192.0.2.0/24,doc\n")
    file = tmp_path / "config.yaml"
    file.write_text(f"enrich: {{networks: {{files: ['{table}']}}}}\n")
    config = load(file, both, {})
    assert config.enrich.networks is not None
    assert config.enrich.networks.files == (table,)
    assert names(config, "10.1.0.1") == ["10.0.0.0/8"]
    own = both | {"FLOW_EXPORTER_ENRICH__NETWORKS__CIDRS": "10.0.0.0/8=corp"}
    assert names(load(None, own, {}), "10.1.0.1") == ["corp"]
    file.write_text("enrich: {networks: null}\n")
    assert load(file, both, {}).enrich.networks is None


@pytest.mark.parametrize("environment", [
    {"OTEL_EBPF_NETWORK_CIDRS": ""},
    {"OTEL_EBPF_NETWORK_CIDRS": " , "},
    {"OTEL_EBPF_NETWORK_SAMPLING": "50", "OTEL_EBPF_NETWORK_INTERFACES": "eth0"},
])  # fmt: skip
def test_nothing_else(environment: dict[str, str]) -> None:
    """An empty list, and other variables, change nothing."""
    assert load(None, environment, {}) == Config()


@pytest.mark.parametrize("text", ["10.0.0.0/8,10.0.0.0/99", "10.0.0.0/99=corp", "corp"])
def test_what_is_no_network(text: str) -> None:
    """One line that names the variable and where names are given."""
    with pytest.raises(ConfigError) as raised:
        load(None, {"OTEL_EBPF_NETWORK_CIDRS": text}, {})
    wrong = text.rpartition(",")[2]
    assert str(raised.value) == (
        f"OTEL_EBPF_NETWORK_CIDRS: {wrong!r} is not a network such as 10.0.0.0/8; names of "
        "networks are in enrich.networks.cidrs"
    )
