"""Every number that the documents claim, reproducible."""
