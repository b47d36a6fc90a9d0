"""Names of services, by protocol and port."""
