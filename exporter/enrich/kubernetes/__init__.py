"""Names for the addresses of a Kubernetes cluster: pods, services and nodes."""
