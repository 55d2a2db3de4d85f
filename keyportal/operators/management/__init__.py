"""Commands for what operators say of models."""
