"""Flow records to an IPFIX collector (RFC 7011) over UDP, TCP or TLS."""
