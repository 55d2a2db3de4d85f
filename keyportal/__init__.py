"""Keyportal: API keys for language models, managed in a portal and checked by a gateway."""

__version__ = "0.1.0"
