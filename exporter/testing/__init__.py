"""
Fakes and builders for tests of code that uses this package.

Nothing here opens a socket, a file or the kernel.
"""

from exporter.testing.batch import Row, make_batch
from exporter.testing.sink import Misbehaviour, RecordingSink

__all__ = ["Misbehaviour", "RecordingSink", "Row", "make_batch"]
