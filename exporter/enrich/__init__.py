"""Add what is known about a batch. Rows are never dropped or reordered."""
