"""An eBPF runtime over libbpf. Stands alone: it imports nothing else of this package."""
