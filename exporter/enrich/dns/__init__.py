"""Names of addresses, from DNS: answers seen on the wire, and reverse look-ups."""
