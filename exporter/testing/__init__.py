"""Fakes and builders for tests of code that uses this package."""
