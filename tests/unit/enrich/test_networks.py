"""Tables of networks in every notation, good and bad, and files replaced while they are used."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Config, dump, load
from exporter.enrich.networks.config import NetworksConfig
from exporter.enrich.networks.source import NetworkNames
from exporter.enrich.networks.tables import read_table
from exporter.errors import ConfigError
from tests.e2e.agent import wait_until
from tests.unit.enrich.test_prefixes import addresses

AWS = {
    "syncToken": "1790000000",
    "createDate": "2026-09-21-00-00-00",
    "prefixes": [
        {"ip_prefix": "203.0.113.0/24", "region": "eu-west-1", "service": "EC2",
         "network_border_group": "eu-west-1"},
        {"ip_prefix": "203.0.113.0/24", "region": "eu-west-1", "service": "AMAZON",
         "network_border_group": "eu-west-1"},
        {"ip_prefix": "198.51.100.0/24", "region": "GLOBAL", "service": "CLOUDFRONT",
         "network_border_group": "GLOBAL"},
    ],
    "ipv6_prefixes": [
        {"ipv6_prefix": "2001:db8:a::/48", "region": "us-east-1", "service": "S3",
         "network_border_group": "us-east-1"},
    ],
}  # fmt: skip
GCP = {
    "syncToken": "1790000000000",
    "creationTime": "2026-09-21T00:00:00",
    "prefixes": [
        {"ipv4Prefix": "203.0.113.0/24", "service": "Google Cloud", "scope": "europe-west3"},
        {"ipv6Prefix": "2001:db8:b::/48", "service": "Google Cloud", "scope": "global"},
    ],
}
AZURE = {
    "changeNumber": 300,
    "cloud": "Public",
    "values": [
        {"name": "Storage.WestEurope", "id": "Storage.WestEurope", "properties": {
            "changeNumber": 1, "region": "westeurope", "regionId": 18, "platform": "Azure",
            "systemService": "AzureStorage", "addressPrefixes": ["203.0.113.0/25"]}},
        {"name": "AzureCloud", "id": "AzureCloud", "properties": {
            "changeNumber": 1, "region": "", "platform": "Azure", "systemService": "",
            "addressPrefixes": ["203.0.113.0/24", "203.0.113.0/25", "2001:db8:c::/48"]}},
    ],
}  # fmt: skip

ATTRIBUTES = NetworksConfig().attributes()


@contextmanager
def opened(*files: Path, **settings: Any) -> Iterator[NetworkNames]:
    made = NetworkNames(NetworksConfig(files=files, **settings))
    made.open()
    try:
        yield made
    finally:
        made.close()


def said(source: NetworkNames, text: str) -> dict[str, Any]:
    """What is known of an address, by the path without its end."""
    found = source.look_up(addresses([text]))
    number = int(found.numbers[0])
    values = {what.path: column[number] for what, column in found.values.items()}
    return {path: value for path, value in values.items() if value is not None}


FORMS: dict[str, Any] = {
    "plain.csv": "# ours\n\n10.0.0.0/8,corp,zone=a,team=x\n 2001:db8::/32 , lab \n",
    "header.csv": "cidr,name,zone,team\n10.0.0.0/8,corp,a,x\n2001:db8::/32,lab\n",
    "bom.txt": "\ufeffNetwork,Name,Zone,Team\r\n10.0.0.0/8,corp,a,x\r\n2001:db8::/32,lab,,\r\n",
    "lines.jsonl": '{"cidr": "10.0.0.0/8", "name": "corp", "zone": "a", "team": "x"}\n'
    '\n{"cidr": "2001:db8::/32", "name": "lab"}\n',
    "lines.json": '{"cidr": "10.0.0.0/8", "name": "corp", "zone": "a", "team": "x"}\n'
    '{"cidr": "2001:db8::/32", "name": "lab"}\n',
    "list.json": json.dumps(
        [{"cidrs": ["10.0.0.0/8"], "name": "corp", "zone": "a", "team": "x"},
         {"cidr": "2001:db8::/32", "name": "lab"}]
    ),
    "list.yaml": "- {name: corp, cidrs: [10.0.0.0/8], zone: a, team: x}\n"
    "- {name: lab, cidrs: ['2001:db8::/32']}\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str, tmp_path: Path) -> None:
    """Each says the same, known columns and a label."""
    path = tmp_path / name
    path.write_text(FORMS[name], newline="")
    with opened(path, labels="team") as source:
        assert said(source, "10.1.2.3") == {
            "network.name": "corp",
            "network.cidr": "10.0.0.0/8",
            "cloud.availability_zone": "a",
            "network.labels.team": "x",
        }
        assert said(source, "2001:db8::1") == {
            "network.name": "lab",
            "network.cidr": "2001:db8::/32",
        }
        assert said(source, "192.0.2.1") == {}
        state = source.state()
        assert (state.hits, state.misses, state.entries, state.problem) == (2, 1, 2, "")


@pytest.mark.parametrize(
    "cidrs",
    [
        {"corp": ["10.0.0.0/8", "172.16.0.0/12"], "lab": "2001:db8::/32"},
        ["10.0.0.0/8=corp", {"name": "corp", "cidr": "172.16.0.0/12"}, "2001:db8::/32=lab"],
        [{"name": "corp", "cidrs": ["10.0.0.0/8", "172.16.0.0/12"]},
         {"name": "lab", "cidrs": ["2001:db8::/32"]}],
        "10.0.0.0/8=corp,172.16.0.0/12=corp,2001:db8::/32=lab",
    ],
)  # fmt: skip
def test_in_the_configuration(cidrs: Any, tmp_path: Path) -> None:
    """In the forms of FLP and OBI and our own; what is dumped is the same configuration again."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"enrich": {"networks": {"cidrs": cidrs}}}))
    config = load(file, {}, {})
    (tmp_path / "dumped.yaml").write_text(dump(config))
    assert load(tmp_path / "dumped.yaml", {}, {}) == config
    assert config.enrich.networks is not None
    source = NetworkNames(config.enrich.networks)
    names = [
        said(source, text)["network.name"] for text in ("10.9.9.9", "172.31.0.1", "2001:db8::")
    ]
    assert names == ["corp", "corp", "lab"]


def test_a_network_alone_is_its_name() -> None:
    """As OBI has it; in the environment too."""
    config = load(None, {"FLOW_EXPORTER_ENRICH__NETWORKS__CIDRS": "10.1.2.3/8,192.0.2.0/24"}, {})
    assert config.enrich.networks is not None
    source = NetworkNames(config.enrich.networks)
    assert said(source, "10.0.0.1")["network.name"] == "10.0.0.0/8"
    assert said(source, "192.0.2.1")["network.name"] == "192.0.2.0/24"


def test_aws(tmp_path: Path) -> None:
    """ip-ranges.json: what a range is for, not that all are Amazon's; no region GLOBAL."""
    path = tmp_path / "ip-ranges.json"
    path.write_text(json.dumps(AWS))
    with opened(path) as source:
        assert said(source, "203.0.113.9") == {
            "cloud.provider": "aws", "cloud.region": "eu-west-1", "cloud.service.name": "EC2",
        }  # fmt: skip
        assert said(source, "198.51.100.9") == {
            "cloud.provider": "aws", "cloud.service.name": "CLOUDFRONT",
        }  # fmt: skip
        assert said(source, "2001:db8:a::9")["cloud.region"] == "us-east-1"


def test_gcp(tmp_path: Path) -> None:
    """cloud.json."""
    path = tmp_path / "cloud.json"
    path.write_text(json.dumps(GCP))
    with opened(path) as source:
        assert said(source, "203.0.113.9") == {
            "cloud.provider": "gcp",
            "cloud.region": "europe-west3",
            "cloud.service.name": "Google Cloud",
        }
        assert "cloud.region" not in said(source, "2001:db8:b::9")


def test_azure(tmp_path: Path) -> None:
    """ServiceTags: a service's region and name win over AzureCloud, wherever they stand."""
    path = tmp_path / "ServiceTags_Public.json"
    path.write_text(json.dumps(AZURE))
    with opened(path) as source:
        assert said(source, "203.0.113.9") == {
            "cloud.provider": "azure",
            "cloud.region": "westeurope",
            "cloud.service.name": "AzureStorage",
        }
        assert said(source, "203.0.113.200") == {"cloud.provider": "azure"}


def test_tables_together(tmp_path: Path) -> None:
    """Each attribute by itself; the configuration wins over files, later files over earlier."""
    published, zones = tmp_path / "aws.json", tmp_path / "zones.csv"
    published.write_text(json.dumps(AWS))
    zones.write_text("203.0.113.0/24,from file,zone=eu-west-1a,region=mine\n")
    with opened(published, zones, cidrs={"partner": ["203.0.113.0/24"]}) as source:
        assert said(source, "203.0.113.9") == {
            "network.name": "partner",
            "network.cidr": "203.0.113.0/24",
            "cloud.provider": "aws",
            "cloud.region": "mine",
            "cloud.availability_zone": "eu-west-1a",
            "cloud.service.name": "EC2",
        }


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "10.0.0.0/8,a\n10.0.0.0/40,b\n", ":2: '10.0.0.0/40' is not a network"),
        ("a.csv", "10.0.0.0/8,a,zone\n", ":1: 'zone' is not KEY=VALUE"),
        ("a.csv", "10.0.0.0/8,a,a b=c\n", ":1: 'a b' is not a name of letters"),
        ("a.csv", "cidr,name\n10.0.0.0/8,a,b\n", ":2: 3 cells below a header of 2"),
        ("a.csv", '10.0.0.0/8,"a\n', ":1: unexpected end of data"),
        ("a.csv", f"10.0.0.0/8,{'x' * 300}\n", ":1: name is longer than 256 characters"),
        ("a.csv", f"10.0.0.0/8,{'x' * 200_000}\n", ":1: field larger than field limit"),
        ("a.csv", b"10.0.0.0/8,\xff\xfe\n", " is not text in UTF-8"),
        ("a.csv", "<html>\n", ":1: '<html>' is not a network"),
        ("a.json", "[", ": not JSON: "),
        ("a.json", "[" * 5000, ": not JSON: "),
        ("a.json", '"10.0.0.0/8"', ": the whole is not a list of networks"),
        ("a.json", "[5]", ": '5' is not a network"),
        ("a.json", '[{"name": "x"}]', ": an entry needs cidr, or cidrs, and has: name"),
        ("a.json", '[{"cidr": 5}]', ": '5' is not a network"),
        ("a.json", '[{"cidrs": "10.0.0.0/8"}]', ": cidrs is not a list"),
        ("a.json", '[{"cidr": "10.0.0.0/8", "name": ["x"]}]', ": name is no text"),
        ("a.json", '{"changeNumber": 1, "values": [{"properties": 5}]}', ": '5' is not a mapping"),
        ("a.json", '{"syncToken": "1", "prefixes": [{}]}', ": 'None' is not a network"),
        ("a.jsonl", '{"cidr": "::/0"}\n{"cidr": "::/129"}\n', ":2: '::/129' is not a network"),
        ("a.jsonl", '{"cidr": "::/0"}\n{\n', ":2: unexpected end"),
        ("a.yaml", "a: [10.0.0.0/8", ": not YAML: "),
        ("a.yaml", "- " * 100_000 + "x", "more than 32 lists or mappings within each other"),
        ("a.yaml", "[" * 100_000, "more than 32 lists or mappings within each other"),
        ("a.yaml", "corp: 5", ": '5' is not a network"),
        ("a.yaml", "corp: {}", ": 'corp' is not a list of networks"),
        ("a.yaml", "[!!bool x, !!int '', !!timestamp x]", ": 'x' is not a network"),
        ("a.yaml", "!!python/object/apply:os.getcwd []\n--- x", ": not YAML: "),
        ("a.yaml", "? [1, 2]\n: x", ""),
        ("a.yaml", f"- {{cidr: 10.0.0.0/8, name: {'9' * 5000}}}", ""),
        ("a.yaml", r'- {cidr: 10.0.0.0/8, name: "\ud800"}', ""),
    ],
)
def test_hostile_files(name: str, content: str | bytes, reason: str, tmp_path: Path) -> None:
    """One line with the file and the place in it."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as raised:
        read_table(path, ATTRIBUTES)
    text = str(raised.value)
    assert text.startswith(f"{path}")
    assert reason in text
    assert "\n" not in text
    assert len(text) < 500


def test_aliases_cost_no_memory(tmp_path: Path) -> None:
    """YAML that would be a billion networks is refused as what it is: no network."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    path = tmp_path / "a.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="is not a network"):
        read_table(path, ATTRIBUTES)


@given(content=st.text(max_size=60) | st.binary(max_size=60), form=st.sampled_from(
    (".csv", ".json", ".jsonl", ".yaml", "")))  # fmt: skip
def test_anything_is_a_table_or_one_line(
    content: str | bytes, form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No content raises anything else, and what is taken can be written as JSON."""
    path = tmp_path_factory.getbasetemp() / f"any{form}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="replace"))
    try:
        rows, problem = read_table(path, ATTRIBUTES), ""
    except ConfigError as err:
        rows, problem = (), str(err)
    assert len(problem.splitlines()) <= 1
    orjson.dumps([list(row.values) for row in rows])


class TestFiles:
    """As they come and go."""

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        """A pipe is not waited for; a directory and a device are no tables."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "none"):
            with opened(path) as source:
                assert source.state().problem.startswith(f"cannot read {path}: ")

    def test_a_broken_one_changes_nothing(self, tmp_path: Path) -> None:
        """The old table stays in use, whole, until the file is good again."""
        path, other = tmp_path / "a.csv", tmp_path / "b.csv"
        path.write_text("10.0.0.0/8,old\n")
        other.write_text("192.0.2.0/24,other\n")
        with opened(path, other) as source:
            path.write_text("10.0.0.0/8,new\n10.0.0.0/99,bad\n")
            wait_until(lambda: source.state().problem, "the problem is told")
            assert source.state().problem.startswith(f"{path}:2: ")
            assert said(source, "10.0.0.1")["network.name"] == "old"
            other.write_text("192.0.2.0/24,another\n")
            wait_until(
                lambda: said(source, "192.0.2.1")["network.name"] == "another", "the good one is"
            )
            assert said(source, "10.0.0.1")["network.name"] == "old"
            path.write_text("10.0.0.0/8,new\n")
            wait_until(lambda: said(source, "10.0.0.1")["network.name"] == "new", "it is read")
            assert source.state().problem == ""

    def test_a_config_map(self, tmp_path: Path) -> None:
        """Kubernetes replaces the directory that a symbolic link leads through."""
        for version in ("one", "two"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "a.csv").write_text(f"10.0.0.0/8,{version}\n")
        data, path = tmp_path / "..data", tmp_path / "a.csv"
        data.symlink_to("one")
        path.symlink_to("..data/a.csv")
        with opened(path) as source:
            assert said(source, "10.0.0.1")["network.name"] == "one"
            (tmp_path / "..new").symlink_to("two")
            (tmp_path / "..new").rename(data)
            wait_until(lambda: said(source, "10.0.0.1")["network.name"] == "two", "it is read")

    def test_replaced_while_asked(self, tmp_path: Path) -> None:
        """Every answer is of one table, whole."""
        path = tmp_path / "a.csv"
        texts = {
            name: "".join(f"10.{n}.0.0/16,{name},zone={name}\n" for n in range(200))
            for name in ("one", "two")
        }
        path.write_text(texts["one"])
        asked = addresses([f"10.{n}.0.1" for n in range(200)])
        seen: set[Any] = set()
        stop = threading.Event()

        def replace() -> None:
            for number in range(40):
                beside = tmp_path / "new"
                beside.write_text(texts[("one", "two")[number % 2]])
                beside.rename(path)
                time.sleep(0.01)
            stop.set()

        with opened(path) as source:
            writer = threading.Thread(target=replace)
            writer.start()
            while not stop.is_set():
                seen.add(frozenset(_pairs(source, asked)))
            writer.join()
            wait_until(lambda: said(source, "10.0.0.1")["network.name"] == "two", "the last one")
        assert seen <= {frozenset({("one", "one")}), frozenset({("two", "two")})}
        assert seen


def _pairs(source: NetworkNames, asked: Any) -> set[tuple[Any, Any]]:
    found = source.look_up(asked)
    columns: Mapping[str, Any] = {what.path: column for what, column in found.values.items()}
    names, zones = columns["network.name"], columns["cloud.availability_zone"]
    return {(names[number], zones[number]) for number in found.numbers.tolist()}


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"cidrs": {"corp": ["10.0.0.0/33"]}}, "'10.0.0.0/33' is not a network such as"),
        ({"cidrs": {"corp": 5}}, "'corp' is not a list of networks"),
        ({"cidrs": [{"name": "corp"}]}, "an entry needs cidr, or cidrs"),
        ({"cidrs": 5}, "the whole is not a list of networks"),
        ({"labels": ["zone"]}, "zone is always added"),
        ({"labels": ["a b"]}, "'a b' is not a name of letters"),
        ({"file": ["x"]}, "unknown key enrich.networks.file: did you mean files?"),
    ],
)
def test_bad_configuration(section: Any, reason: str) -> None:
    """One line that names the key."""
    with pytest.raises(ConfigError) as raised:
        load(None, {}, {"enrich": {"networks": section}})
    assert reason in str(raised.value)
    assert "enrich.networks." in str(raised.value)
    assert "\n" not in str(raised.value)


def test_off_unless_asked_for() -> None:
    """Nothing is looked up without a section."""
    assert Config().enrich.networks is None
    assert Config().enrich.geoip is None


def test_the_documents_example(tmp_path: Path) -> None:
    """Its configuration loads, and names what it says."""
    page = Path(__file__).parents[3] / "docs" / "enrich" / "networks.md"
    (tmp_path / "config.yaml").write_text(page.read_text().split("```yaml\n")[1].split("```")[0])
    config = load(tmp_path / "config.yaml", {}, {})
    assert config.enrich.networks is not None
    assert config.enrich.geoip is not None
    assert config.enrich.services is not None
    assert config.agent.cloud.metadata == "auto"
    source = NetworkNames(config.enrich.networks)
    assert said(source, "10.7.0.1")["network.name"] == "lab"
