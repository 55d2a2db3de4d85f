"""Commands for model servers and models."""
