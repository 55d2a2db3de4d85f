"""The pages about keys: one module an action."""
