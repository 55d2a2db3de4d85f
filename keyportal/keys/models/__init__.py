"""The tables of API keys, templates, programs that sign in, and one-use form nonces."""

from keyportal.keys.models.api_key import (
    DETAILS,
    ApiKey,
    ApiKeyQuerySet,
    KeyDetails,
    Secret,
    lock_key,
    lock_owner,
)
from keyportal.keys.models.nonce import SpentNonce
from keyportal.keys.models.program_sign_in import ProgramSignIn
from keyportal.keys.models.template import (
    KeyTemplate,
    delete_template,
    lock_template,
    save_template,
)

__all__ = [
    "DETAILS",
    "ApiKey",
    "ApiKeyQuerySet",
    "KeyDetails",
    "KeyTemplate",
    "ProgramSignIn",
    "Secret",
    "SpentNonce",
    "delete_template",
    "lock_key",
    "lock_owner",
    "lock_template",
    "save_template",
]
