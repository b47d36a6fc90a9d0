"""Names and places of networks, from the configuration and from files: the longest prefix wins."""
