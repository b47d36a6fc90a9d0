"""Flow records and sums of them to an OpenTelemetry collector."""
