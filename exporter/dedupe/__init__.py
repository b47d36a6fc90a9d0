"""One packet seen at several observation points becomes one flow."""
