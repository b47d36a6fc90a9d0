"""Where the agent's own host is: cloud, region, zone, instance."""
