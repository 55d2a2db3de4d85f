"""The page Sign-in: identity providers that operators add, beside those of the environment."""
