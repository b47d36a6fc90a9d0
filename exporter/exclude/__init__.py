"""Rows that nobody wants are dropped, by name and counted, before any sink has them."""
