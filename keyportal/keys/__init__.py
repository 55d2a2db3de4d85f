"""API keys: make, list, change, rotate, delete."""
