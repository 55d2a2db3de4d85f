"""The operators' pages: what concerns the whole installation, for superusers only."""
