"""
An enricher in one file: which floor of a building an address is on, by its third octet.

It is asked about each distinct address of a drain once, and its answer stands at both ends of every
flow. It is complete but for its place in the tables that README.md beside this directory names.
"""

from __future__ import annotations

import numpy as np

from exporter.batch.attributes import EndAttribute
from exporter.enrich.base import Addresses, Found, Local

#: Names in JSON, in flat records (``SrcFloor``) and among OBI's (``src.floor``).
FLOOR = EndAttribute(
    "building.floor", "Floor that the address is on.", "Floor", "{}.floor", number=True
)


class Floors(Local):
    """
    Knows the floors of 10.20.0.0/16: 10.20.3.7 is on the third.

    ``Local`` says that there is nothing to open and nothing that can be away.
    """

    name = "floors"
    attributes: tuple[EndAttribute, ...] = (FLOOR,)

    def look_up(self, addresses: Addresses) -> Found:
        """Entity 0 is the one of which nothing is known; entity n + 1 is floor n."""
        octets = addresses.octets
        ours = addresses.is_ipv4() & (octets[:, 12] == 10) & (octets[:, 13] == 20)
        numbers = np.where(ours, octets[:, 14].astype(np.uint32) + 1, 0).astype(np.uint32)
        return Found(numbers, {FLOOR: (None, *range(256))})
