"""flow-exporter: network flows from eBPF, every packet accounted for."""

__version__ = "0.1.0"
