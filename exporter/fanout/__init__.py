"""One batch to many sinks, each with its own queue and thread."""
