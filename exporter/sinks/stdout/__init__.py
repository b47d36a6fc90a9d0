"""Flow records on standard output."""
