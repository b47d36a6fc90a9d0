"""
An address as the key of a map: either family in the same 20 octets.

::

    octets  0..15  16      17   18..19
            IP     family  key  cluster, host order

The layout of Cilium's endpoint and tunnel maps, so that such maps can be read and written.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from exporter.ebpf.errors import BpfError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LAYOUT = struct.Struct("=16sBBH")
_IPV4, _IPV6 = 1, 2


@dataclass(frozen=True)
class EndpointKey:
    """
    An address within a cluster.

    Args:
        address: Of either family.
        cluster: 0 to 65535.
        key: 0 to 255: which encryption key to use.
    """

    address: Address
    cluster: int = 0
    key: int = 0

    #: Octets of a packed key.
    SIZE = _LAYOUT.size

    def __post_init__(self) -> None:
        if not (0 <= self.cluster < 1 << 16 and 0 <= self.key < 1 << 8):
            raise ValueError(f"cluster {self.cluster} has 16 bits and key {self.key} has 8")

    def __str__(self) -> str:
        return f"{self.address}@{self.cluster}:{self.key}"

    def pack(self) -> bytes:
        """As octets: an IPv4 address in the first four, the other twelve zero."""
        family = _IPV4 if self.address.version == 4 else _IPV6
        return _LAYOUT.pack(self.address.packed, family, self.key, self.cluster)

    @classmethod
    def unpack(cls, octets: bytes) -> EndpointKey:
        """
        From octets.

        Raises:
            BpfError: If they are not such a key.
        """
        if len(octets) != cls.SIZE:
            raise BpfError("read endpoint key", 0, f"it has {len(octets)} octets, not {cls.SIZE}")
        packed, family, key, cluster = _LAYOUT.unpack(octets)
        if family == _IPV6:
            return cls(ipaddress.IPv6Address(packed), cluster, key)
        if family == _IPV4 and not any(packed[4:]):
            return cls(ipaddress.IPv4Address(packed[:4]), cluster, key)
        raise BpfError("read endpoint key", 0, f"family {family} with address {packed.hex()}")
