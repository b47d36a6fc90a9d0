"""Sums of flows for Prometheus to scrape."""
