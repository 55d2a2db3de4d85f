"""Keyportal: API keys for language models, made in a portal and honoured by a gateway."""
