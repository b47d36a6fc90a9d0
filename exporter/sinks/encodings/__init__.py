"""Flow records as octets, for the sinks that share a format: columns in, messages out, no I/O."""
