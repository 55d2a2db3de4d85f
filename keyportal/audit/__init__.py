"""What happened: audit events, tombstones of deleted keys, receipts of deletion."""
