"""Admission: judges keys in batches and counts requests and tokens against limits."""
