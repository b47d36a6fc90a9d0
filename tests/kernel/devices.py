"""Devices whose drivers a kernel may lack."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

import pytest

from exporter.ebpf.errors import FeatureMissing
from tests.e2e.net import End, Netns


def add(netns: Netns, device: str, *arguments: str) -> End:
    """
    ``ip link add DEVICE ARGUMENTS``, left down. Skips the test if the kernel has no such devices.
    """
    command = ["ip", "-n", netns.name, "link", "add", device, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Unknown device type" in done.stderr or "not supported" in done.stderr:
        kind = arguments[arguments.index("type") + 1]
        missing = FeatureMissing(f"make a device of type {kind}", 0, "this kernel has no driver")
        pytest.skip(str(missing))
    assert done.returncode == 0, done.stderr
    return End(netns, device)


@dataclass(frozen=True)
class WireGuardKey:
    """A key pair, as the kernel has it: 32 octets each."""

    private: bytes
    public: bytes

    @classmethod
    def make(cls) -> WireGuardKey:
        """
        With openssl, whose DER ends in the raw key.

        Source: RFC 8410, sections 4 and 7.
        """
        private = subprocess.run(
            ["openssl", "genpkey", "-algorithm", "X25519", "-outform", "DER"],
            capture_output=True,
            check=True,
        ).stdout
        public = subprocess.run(
            ["openssl", "pkey", "-inform", "DER", "-pubout", "-outform", "DER"],
            input=private,
            capture_output=True,
            check=True,
        ).stdout
        return cls(private[-32:], public[-32:])
