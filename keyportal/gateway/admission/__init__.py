"""Admission: checks keys in batches, and counts requests and tokens against limits."""
