"""Expressions over flow records: CEL's language and checker, evaluated on whole batches."""
