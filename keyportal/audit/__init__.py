"""Audit events, tombstones of deleted keys, and receipts of deletion."""
