"""Destinations of flow records."""
