"""
What each command is used for: examples for its ``--help``, the manual page and the reference.

One table in one style: the meaning as a comment, and below it a line for the shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Example(NamedTuple):
    """
    One line for the shell.

    Args:
        meaning: What it is good for.
        line: As it is typed; a pipe may follow the command.
    """

    meaning: str
    line: str


def _some(*pairs: tuple[str, str]) -> tuple[Example, ...]:
    whole = (line if "flow-exporter " in line else f"flow-exporter {line}" for _, line in pairs)
    return tuple(Example(pair[0], line) for pair, line in zip(pairs, whole, strict=True))


#: Command -> its examples; "" is the program itself.
EXAMPLES: Mapping[str, tuple[Example, ...]] = {
    "": _some(
        ("what can this host do?", "doctor"),
        ("the flows of every interface, in a live table", "run"),
        (
            "those of some interfaces, to a collector",
            "run --interfaces eth0,/^veth/ --sink grpc://collector:9999",
        ),
        ("who talks most, beside a running agent", "top"),
        ("is any packet without its place?", "ledger"),
    ),
    "run": _some(
        ("every interface but lo, in a live table", "run"),
        ("JSON lines, for a pipe", "run --sink stdout | jq .destination.address"),
        ("some interfaces, to a collector", "run --interfaces eth0,/^veth/ --sink grpc://c:9999"),
        ("metrics, and a page of live talkers", "run --metrics-address 127.0.0.1:9090 --page"),
    ),
    "replay": _some(
        ("the flows of a capture, as a table", "replay --table capture.pcap"),
        ("as JSON lines", "replay capture.pcapng | jq .flow.bytes"),
        ("in a script: nothing but what went wrong", "replay --quiet capture.pcap >flows.jsonl"),
    ),
    "ledger": _some(
        ("what became of every packet", "ledger"),
        ("of one agent out of several", "ledger --pid 4711"),
        ("packets that were lost, for a script", "ledger --json | jq .kernel.lost"),
    ),
    "unpin": _some(
        ("detach what an agent has left behind", "unpin"),
        ("left with run --pin PATH", "unpin /sys/fs/bpf/second-agent"),
    ),
    "observe": _some(
        ("the last 20 flows", "observe"),
        ("as it comes: a network, but not its DNS", "observe -f --ip 10.0.0.0/8 --not --port 53"),
        ("out of a file", "observe --input-file flows.jsonl --from-ip 192.0.2.7"),
        ("elsewhere", "observe --server tls://node-1:4244 --tls-ca-cert-files ca.pem"),
    ),
    "top": _some(
        ("who talks most", "top"),
        ("the busiest services of a network", "top --by ports --ip 10.0.0.0/8"),
        ("pods, most packets first", "top --by pods --sort packets"),
        ("once, as in a script", "top --rounds 1"),
    ),
    "consume": _some(
        ("what comes, as text", "consume --brokers kafka:9092 --topic network-flows"),
        (
            "who has sent most to a port",
            (
                "consume --brokers kafka:9092 --topic flows \\\n"
                "    --from-beginning --until-end --to-port 443 --sum source"
            ),
        ),
        (
            "with TLS and a password that is not in the arguments",
            (
                "consume --brokers kafka:9093 --topic flows --tls \\\n"
                "    --sasl-username reader --sasl-password-file /run/secrets/kafka"
            ),
        ),
    ),
    "lag": _some(
        ("of all groups, once", "lag --brokers kafka:9092 --topic network-flows"),
        (
            "for Prometheus",
            (
                "lag --brokers kafka:9092 --topic network-flows \\\n"
                "    --metrics-address 127.0.0.1:9101"
            ),
        ),
    ),
    "kube-cache": _some(
        ("in a pod, with its service account", "kube-cache"),
        ("with the labels that agents ask for", "kube-cache --labels app,team --owners watch"),
        ("outside of the cluster", "kube-cache --kubeconfig /root/.kube/config --context test"),
    ),
    "doctor": _some(
        ("can it capture here? what costs what is missing?", "doctor"),
        ("as the agent is configured", "doctor --config /etc/flow-exporter/config.yaml"),
        ("are the destinations there?", "doctor --check-sinks --sink grpc://collector:9999"),
        ("all that a bug report needs, in one file", "doctor --bundle flow-exporter.tar.gz"),
    ),
    "check": _some(
        ("a file, before it is used", "check --config /etc/flow-exporter/config.yaml"),
        ("flags and environment, too", "check --sink otlp+grpc://collector:4317 --sampling 100"),
    ),
    "dump-config": _some(
        ("every setting with its value", "dump-config"),
        (
            "what a file and a flag come to",
            "dump-config --config agent.yaml --drain-interval 1s",
        ),
    ),
    "completion": _some(
        ("bash: this shell", "source <(flow-exporter completion bash)"),
        ("bash: everybody", "completion bash >/etc/bash_completion.d/flow-exporter"),
        ("zsh", 'completion zsh >"${fpath[1]}/_flow-exporter"'),
        ("fish", "completion fish >~/.config/fish/completions/flow-exporter.fish"),
    ),
}


def epilog(command: str) -> str:
    """The examples of a command, for the end of its help."""
    lines = ["examples:"]
    for example in EXAMPLES[command]:
        lines += [f"  # {example.meaning}", *(f"  {part}" for part in example.line.splitlines())]
    return "\n".join(lines) + "\n"
