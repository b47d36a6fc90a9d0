"""One configuration out of four layers, and what is said of what is wrong in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import Config, dump, load
from exporter.errors import ConfigError
from exporter.quantities import split_host_port
from exporter.sinks.grpc.config import GrpcConfig
from exporter.sinks.null import NullConfig
from exporter.sinks.stdout.config import StdoutConfig
from exporter.sinks.url import parse_sink
from tests.strategies import ASN, POD, TEAM

NETOBSERV = {"TARGET_HOST": "collector", "TARGET_PORT": "9999"}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write a configuration file; gives its path."""

    def writing(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return path

    return writing


def failure(
    path: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> str:
    """What is said of a configuration that cannot be used: one line."""
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {}, flags or {})
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_defaults() -> None:
    """Nothing given: every default, JSON or a table on standard output."""
    config = load(None, {}, {})
    assert config == Config()
    assert config.sinks == (StdoutConfig(),)
    assert config.capture.exclude_interfaces == ("lo",)


def test_precedence(write: Any) -> None:
    """Later wins: NetObserv's environment, the file, our environment, flags; the rest stays."""
    environment = NETOBSERV | {
        "CACHE_ACTIVE_TIMEOUT": "1s",
        "SAMPLING": "2",
        "CACHE_MAX_FLOWS": "1111",
        "AGENT_IP": "192.0.2.1",
    }
    layers: list[tuple[Path | None, dict[str, str], dict[str, Any]]] = [(None, environment, {})]
    path = write("capture: {drain_interval: 2s, sampling: 3, max_flows: 2222}")
    layers.append((path, environment, {}))
    ours = {"FLOW_EXPORTER_CAPTURE__DRAIN_INTERVAL": "3s", "FLOW_EXPORTER_CAPTURE__SAMPLING": "4"}
    layers.append((path, environment | ours, {}))
    layers.append((path, environment | ours, {"capture": {"drain_interval": "4s"}}))
    captures = [load(*layer).capture for layer in layers]
    assert [(c.drain_interval, c.sampling, c.max_flows) for c in captures] == [
        (1, 2, 1111),
        (2, 3, 2222),
        (3, 4, 2222),
        (4, 4, 2222),
    ]
    last = load(*layers[-1])
    assert last.agent.address == "192.0.2.1"
    assert last.sinks == (GrpcConfig(target="collector:9999"),)


def test_sinks_replace_each_other(write: Any) -> None:
    """A later layer's sinks take the place of an earlier one's; they do not add up."""
    path = write("sinks: ['null', stdout]")
    assert [sink.type for sink in load(path, NETOBSERV, {}).sinks] == ["null", "stdout"]
    environment = {"FLOW_EXPORTER_SINKS": "null"}
    assert [sink.type for sink in load(path, environment, {}).sinks] == ["null"]
    flags = {"sinks": ["grpc://h:1"]}
    assert [sink.type for sink in load(path, environment, flags).sinks] == ["grpc"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stdout", (StdoutConfig(),)),
        ("null,grpc://h:1", (NullConfig(), GrpcConfig(target="h:1"))),
        (["stdout", {"type": "null", "name": "n"}], (StdoutConfig(), NullConfig(name="n"))),
        ("grpc://[2001:db8::1]:9999", (GrpcConfig(target="[2001:db8::1]:9999"),)),
        ("grpc://h:1/", (GrpcConfig(target="h:1"),)),
    ],
)
def test_sinks_by_name_url_and_section(text: Any, expected: tuple[Any, ...]) -> None:
    """Names, URLs and sections, one or several, in a list or with commas."""
    assert load(None, {}, {"sinks": text}).sinks == expected


def test_options_of_a_url() -> None:
    """A query sets any key of the section, nested ones with dots."""
    url = "grpc://h:1?max_flows=5&max_octets=1MiB&queue.rows=10&retry.first=20ms&tls.ca=/ca.pem"
    (sink,) = load(None, {}, {"sinks": [url]}).sinks
    assert isinstance(sink, GrpcConfig)
    assert (sink.max_flows, sink.max_octets, sink.queue.rows) == (5, 1 << 20, 10)
    assert sink.retry.first == 0.02
    assert sink.tls is not None
    assert sink.tls.ca == Path("/ca.pem")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amqp://h:1/t", "there is no sink 'amqp://h:1/t': use one of stdout, null, "),
        ("kafka://h:1", "there is no topic: write kafka://HOST:PORT,HOST:PORT/TOPIC"),
        ("kafka://h/t", "write kafka://HOST:PORT,HOST:PORT/TOPIC"),
        ("kafka://h:1,/t", "write kafka://HOST:PORT,HOST:PORT/TOPIC"),
        ("kafka://h:1/a/b", "'a/b' is no topic"),
        ("kafka://user:secret@h:1/t", "has no user, password or fragment: write kafka://HOST"),
        ("kafka://h:1/t?compression=brotli", "sinks[0].compression: input should be 'none'"),
        ("kafka://h:1/t?sasl.username=me", "sinks[0].sasl.password_file: field required"),
        ("kafka://h:1/t?sasl.password=x", "sinks[0].sasl.password_file: field required"),
        ("kafka://h:1/t?sasl.password_file=/p", "give either username or username_file"),
        ("kafka://h:1/t?tls.server_name=x", "server_name is not for Kafka"),
        ("", "there is no sink ''"),
        ("grpc://h", "write grpc://HOST:PORT"),
        ("grpc://:1", "write grpc://HOST:PORT"),
        ("grpc://h:0", "no port between 1 and 65535"),
        ("grpc://h:65536", "no port between 1 and 65535"),
        ("grpc://h:1/path", "write grpc://HOST:PORT"),
        ("grpc://user@h:1", "write grpc://HOST:PORT"),
        ("grpc://h:1#x", "write grpc://HOST:PORT"),
        ("grpc://[::1", "write grpc://HOST:PORT"),
        ("grpc://::1:9", "write grpc://HOST:PORT"),
        ("grpc://h:1?queue=3&queue.rows=10", "queue.rows is in conflict"),
        ("grpc://h:1?queue.rows=10&queue=3", "queue is in conflict"),
        ("grpc://h:1?max_flow=3", "unknown key sinks[0].max_flow: did you mean max_flows?"),
    ],
)
def test_sinks_that_cannot_be(text: str, expected: str) -> None:
    """What is wrong with the name or the URL, and how one is written."""
    assert expected in failure(flags={"sinks": [text]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        ("[::1]:9090", ("::1", 9090)),
        (":9090", ("", 9090)),
        ("collector.example:4317", ("collector.example", 4317)),
    ],
)
def test_host_port(text: str, expected: tuple[str, int]) -> None:
    """A host and a port; IPv6 in brackets."""
    assert split_host_port(text) == expected


@pytest.mark.parametrize(
    ("yaml_text", "expected"),
    [
        ("captur: {}", "unknown key captur: did you mean capture?"),
        ("captur:", "unknown key captur: did you mean capture?"),
        ("capture: {drain_intervall: 5s}", "capture.drain_intervall: did you mean drain_interval?"),
        ("dedupe: {expire: 5s}", "unknown key dedupe.expire: did you mean expiry?"),
        ("agent: {adress: ''}", "unknown key agent.adress: did you mean address?"),
        ("metrics: {addr: ''}", "unknown key metrics.addr: did you mean address?"),
        ("sinks: [{type: stdout, shema: otel}]", "sinks[0].shema: did you mean schema?"),
        ("sinks: [stdout, {type: 'null', nam: x}]", "sinks[1].nam: did you mean name?"),
        ("sinks: [{type: grpc, target: 'h:1', taget: x}]", "sinks[0].taget: did you mean target?"),
        (
            "sinks: [{type: grpc, target: 'h:1', queue: {row: 1}}]",
            "unknown key sinks[0].queue.row: did you mean rows?",
        ),
        (
            "sinks: [{type: grpc, target: 'h:1', retry: {timout: 1}}]",
            "unknown key sinks[0].retry.timout: did you mean timeout?",
        ),
        (
            "sinks: [{type: grpc, target: 'h:1', tls: {crtificate: x}}]",
            "unknown key sinks[0].tls.crtificate: did you mean certificate?",
        ),
    ],
)
def test_unknown_keys(write: Any, yaml_text: str, expected: str) -> None:
    """At every level an unknown key is an error that names the nearest known one."""
    assert expected in failure(write(yaml_text))


@pytest.mark.parametrize(
    ("yaml_text", "expected"),
    [
        (
            "capture: {drain_interval: 5 parsecs}",
            "capture.drain_interval: '5 parsecs' is not a dur",
        ),
        ("capture: {drain_interval: 1ms}", "capture.drain_interval: input should be greater than"),
        ("capture: {flow_memory: much}", "capture.flow_memory: 'much' is not a size"),
        ("capture: {sampling: 1.5}", "capture.sampling: input should be a valid integer"),
        ("capture: {sampling: 0}", "capture.sampling: input should be greater than or equal to 1"),
        ("capture: {interfaces: '/[/'}", "capture.interfaces[0]: /[/ is not a regular expression"),
        ('capture: {interfaces: "/[\\n/"}', "capture.interfaces[0]: /[ / is not a regular"),
        ("capture: {interfaces: ['']}", "capture.interfaces[0]: an empty name"),
        ("capture: {pin: pins}", "capture.pin: must be 'auto' or an absolute path (got 'pins')"),
        ("capture: {pin: /sys/fs/bpf/a.b}", "capture.pin: names in a BPF file system have no dots"),
        ("capture: {ring_size: 5000}", "capture.ring_size: must be a power of two, such as 4096"),
        ("capture: {hook: xdp}", "capture.hook: input should be 'auto', 'tcx' or 'tc'"),
        ("capture: 5", "capture: input should be a valid dictionary"),
        ("capture: {1: 2}", "keys should be strings"),
        ("dedupe: {mode: some}", "dedupe.mode: input should be 'merge', 'mark', 'drop' or 'none'"),
        ("agent: {address: 300.1.1.1}", "agent.address: '300.1.1.1' does not appear to be"),
        ("agent: {interface: eth0}", "agent.interface: must be external, local, or name:"),
        ("metrics: {address: '9090'}", "metrics.address: '9090' is not HOST:PORT"),
        ("metrics: {tls: {certificate: /a, key: /b}}", "metrics: tls is that of metrics.address"),
        ("metrics: {address: ':9', tls: {key: /b}}", "metrics.tls.certificate: field required"),
        ("observe: {address: '4244'}", "observe.address: '4244' is not HOST:PORT"),
        ("observe: {address: '10.0.0.1:4244'}", "observe: 10.0.0.1:4244 is not loopback: give tls"),
        ("observe: {address: ':4244'}", "observe: :4244 is not loopback"),
        ("observe: {tls: {certificate: /a}}", "observe.tls.key: field required"),
        ("observe: {clients: 0}", "observe.clients: input should be greater than or equal to 1"),
        ("log_level: loud", "log_level: input should be"),
        ("sinks: 5", "sinks: input should be a valid tuple"),
        ("sinks: [5]", "sinks[0]: input should be a valid dictionary"),
        ("sinks: [{type: amqp}]", "sinks[0]: input tag 'amqp'"),
        ("sinks: [{target: 'h:1'}]", "sinks[0]: unable to extract tag using discriminator 'type'"),
        ("sinks: [{type: grpc}]", "sinks[0].target: field required"),
        ("sinks: [{type: grpc, target: h}]", "sinks[0].target: 'h' is not HOST:PORT"),
        (
            "sinks: [{type: grpc, target: 'h:1', tls: {key: k}}]",
            "sinks[0].tls: certificate and key go together",
        ),
        ("- a", "must be a mapping with keys such as: capture, dedupe"),
        ("a: [", "is not YAML"),
        ("a: !!python/object:os.system x", "is not YAML"),
    ],
)
def test_bad_values(write: Any, yaml_text: str, expected: str) -> None:
    """One line: where it is, what would do, what was given."""
    assert expected in failure(write(yaml_text))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a directory, not text: the path and the reason."""
    missing = tmp_path / "none.yaml"
    assert failure(missing) == f"cannot read {missing}: No such file or directory"
    assert failure(tmp_path) == f"cannot read {tmp_path}: Is a directory"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in failure(tmp_path / "binary")


@pytest.mark.parametrize("text", ["", "# nothing\n", "capture:\nsinks:\ndedupe:\n", "{}"])
def test_empty_files_and_sections(write: Any, text: str) -> None:
    """A file, or a section, whose lines are all commented out is no error."""
    assert load(write(text), {}, {}) == Config()


def test_environment_of_every_section() -> None:
    """Two underscores separate section and key; any case of value notation."""
    config = load(
        None,
        {
            "FLOW_EXPORTER_CAPTURE__INTERFACES": "eth0,/^veth[0-9]{1,3}/",
            "FLOW_EXPORTER_CAPTURE__EXCLUDE_INTERFACES": "",
            "FLOW_EXPORTER_CAPTURE__INGRESS": "false",
            "FLOW_EXPORTER_CAPTURE__FLOW_MEMORY": "8MiB",
            "FLOW_EXPORTER_DEDUPE__MODE": "mark",
            "FLOW_EXPORTER_AGENT__NAME": "node-1",
            "FLOW_EXPORTER_METRICS__ADDRESS": "[::]:9102",
            "FLOW_EXPORTER_SHUTDOWN_TIMEOUT": "1m",
            "FLOW_EXPORTER_LOG_LEVEL": "debug",
            "PATH": "/bin",
        },
        {},
    )
    assert config.capture.interfaces == ("eth0", "/^veth[0-9]{1,3}/")
    assert config.capture.exclude_interfaces == ()
    assert config.capture.ingress is False
    assert config.capture.flow_memory == 8 << 20
    assert (config.dedupe.mode, config.agent.name) == ("mark", "node-1")
    assert config.metrics.host_port() == ("::", 9102)
    assert (config.shutdown_timeout, config.log_level) == (60, "debug")


@pytest.mark.parametrize(
    "text",
    [
        "{address: '127.0.0.1:4244'}",
        "{address: '[::1]:4244'}",
        "{address: 'localhost:4244'}",
        "{address: ':4244', plaintext: true}",
        "{address: ':4244', tls: {certificate: /tls.crt, key: /tls.key}}",
    ],
)
def test_where_flows_are_served(write: Any, text: str) -> None:
    """Beyond loopback with TLS, or where somebody says that it is not needed."""
    assert load(write(f"observe: {text}"), {}, {}).observe.address.endswith(":4244")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FLOW_EXPORTER_CAPTURE__SAMPLNG": "2"}, "capture.samplng: did you mean sampling?"),
        ({"FLOW_EXPORTER_CAPTURES__SAMPLING": "2"}, "unknown key captures: did you mean capture?"),
        (
            {"FLOW_EXPORTER_CAPTURE": "x", "FLOW_EXPORTER_CAPTURE__SAMPLING": "2"},
            "FLOW_EXPORTER_CAPTURE__SAMPLING is in conflict",
        ),
        (
            {"FLOW_EXPORTER_CAPTURE__SAMPLING": "2", "FLOW_EXPORTER_CAPTURE": "x"},
            "FLOW_EXPORTER_CAPTURE is in conflict",
        ),
        ({"FLOW_EXPORTER_CAPTURE": "x"}, "capture: input should be a valid dictionary"),
        ({"FLOW_EXPORTER_SINKS__0__TYPE": "null"}, "sinks: input should be a valid tuple"),
    ],
)
def test_bad_environment(environment: dict[str, str], expected: str) -> None:
    """Unknown and contradicting variables are errors, whatever their order."""
    assert expected in failure(environment=environment)


def test_service_links_are_not_ours() -> None:
    """Beside a Service named flow-exporter, Kubernetes sets variables that begin like ours."""
    links = {
        "FLOW_EXPORTER_SERVICE_HOST": "10.96.0.1",
        "FLOW_EXPORTER_SERVICE_PORT": "9102",
        "FLOW_EXPORTER_SERVICE_PORT_METRICS": "9102",
        "FLOW_EXPORTER_PORT": "tcp://10.96.0.1:9102",
        "FLOW_EXPORTER_PORT_9102_TCP": "tcp://10.96.0.1:9102",
        "FLOW_EXPORTER_PORT_9102_TCP_PROTO": "tcp",
        "FLOW_EXPORTER_PORT_9102_TCP_PORT": "9102",
        "FLOW_EXPORTER_PORT_9102_TCP_ADDR": "10.96.0.1",
        "FLOW_EXPORTER_METRICS_SERVICE_HOST": "10.96.0.1",
    }
    assert load(None, links, {}) == Config()
    assert "unknown key port_number" in failure(environment={"FLOW_EXPORTER_PORT_NUMBER": "1"})
    assert "metrics.port" in failure(environment={"FLOW_EXPORTER_METRICS__PORT": "1"})


@pytest.mark.parametrize("sinks", [None, "stdout", ["stdout", "null"], [{"type": "stdout"}]])
def test_schema_of_standard_output(sinks: Any) -> None:
    """The flag reaches standard output whichever way it was asked for, and nothing else."""
    flags = {} if sinks is None else {"sinks": sinks}
    for sink in load(None, {}, flags, schema="netobserv").sinks:
        if isinstance(sink, StdoutConfig):
            assert sink.schema_name == "netobserv"
    assert load(None, {}, {"sinks": ["null"]}, schema="netobserv").sinks == (NullConfig(),)


@pytest.mark.parametrize("text", ["sinks:", "sinks: 5", "sinks: {type: stdout}"])
def test_schema_with_sinks_that_are_none(write: Any, text: str) -> None:
    """Nonsense for sinks stays a ConfigError when a schema is asked for."""
    path = write(text)
    if text == "sinks:":
        assert load(path, {}, {}, schema="netobserv").sinks == (StdoutConfig(schema="netobserv"),)
        return
    with pytest.raises(ConfigError, match="sinks: input should be a valid tuple"):
        load(path, {}, {}, schema="netobserv")


FULL = """
capture:
  interfaces: eth0,/^veth[0-9]{1,3}/
  drain_interval: 1m30s
  flow_memory: 1.5MiB
  max_flows: 5000
dedupe: {mode: drop, expiry: 500ms}
agent: {address: '2001:db8::1', family: ipv6}
metrics: {address: '[::]:9102'}
sinks:
  - stdout
  - type: stdout
    schema: netobserv
    format: json
  - grpc://h:1?queue.rows=10
  - type: grpc
    name: other
    target: '[::1]:2'
    tls: {ca: /ca.pem, certificate: /c.pem, key: /k.pem}
    retry: {first: 20ms}
log_level: warning
"""


def test_dump_is_a_configuration(write: Any) -> None:
    """What is dumped, loaded again, is the same; and dumps the same text."""
    config = load(write(FULL), {}, {})
    text = dump(config)
    again = load(write(text), {}, {})
    assert again == config
    assert dump(again) == text
    assert "schema_name" not in text
    assert load(write(dump(Config())), {}, {}) == Config()


def outcome_of(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or the text of its ConfigError."""
    try:
        return function(*arguments)
    except ConfigError as err:
        return str(err)


@given(st.text(max_size=40))
def test_any_sink_is_a_section_or_an_error(text: str) -> None:
    """Whatever is written for a sink: its section, or a ConfigError."""
    assert outcome_of(parse_sink, text) is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["capture", "sinks", "type", "target", "queue", "x", "sampling"]),
                inner,
                max_size=3,
            )
        ),
        max_leaves=8,
    )
)
def test_any_content_is_a_configuration_or_an_error(content: Any) -> None:
    """Whatever a file contains: a configuration, or one line that says what is wrong."""
    text = yaml.safe_dump(content, allow_unicode=False)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        outcome = outcome_of(load, Path(file.name), {}, {}, "otel")
    assert isinstance(outcome, Config) or len(outcome.splitlines()) == 1


@pytest.mark.parametrize("key", ["prometheus://:9464?labels", "otlp+grpc://h:1?metrics.attributes"])
def test_series_by_what_enrichment_adds(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the enrichers add that are turned on can be chosen; what is mistyped is refused."""
    added = (TEAM, POD.of("source"))
    monkeypatch.setattr("exporter.config.attributes_of", lambda _enrich, _agent: added)
    monkeypatch.setattr("exporter.config.by_name", lambda: {"dst_as_number": ASN.of("destination")})
    load(None, {}, {"sinks": [f"{key}=src_addr,src_k8s_pod_name,labels_team"]})
    for name, words in (
        (
            "src_k8s_pod_nam",
            "there is no attribute 'src_k8s_pod_nam': did you mean src_k8s_pod_name",
        ),
        ("dst_as_number", "dst_as_number comes of an enricher that is not turned on"),
        ("src_addr,src_addr", "an attribute is named twice"),
    ):
        with pytest.raises(ConfigError, match=words) as found:
            load(None, {}, {"sinks": [f"{key}={name}"]})
        assert "\n" not in str(found.value)
        assert key.partition("?")[2] in str(found.value)
