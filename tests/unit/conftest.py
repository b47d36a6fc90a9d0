"""How much the property tests try: enough to find what is rare, little enough to be run always."""

from __future__ import annotations

from hypothesis import settings

# A machine under load must not fail a test that is right: no deadline.
settings.register_profile("unit", max_examples=100, deadline=None, print_blob=True)
settings.load_profile("unit")
