"""Pages about keys, one module per action."""
