"""What travels between the stages: batches of flow records as columns."""
