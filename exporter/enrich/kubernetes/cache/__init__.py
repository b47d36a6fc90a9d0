"""A shared cache of a cluster: one list and one watch of the API server for all agents."""
