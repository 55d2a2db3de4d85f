"""The tables of API keys, templates and one-use form nonces."""

from keyportal.keys.models.api_key import ApiKey, ApiKeyQuerySet, Secret
from keyportal.keys.models.nonce import SpentNonce
from keyportal.keys.models.template import Preset, discard, keep, locked_preset

__all__ = [
    "ApiKey",
    "ApiKeyQuerySet",
    "Preset",
    "Secret",
    "SpentNonce",
    "discard",
    "keep",
    "locked_preset",
]
