"""Commands for management keys."""
