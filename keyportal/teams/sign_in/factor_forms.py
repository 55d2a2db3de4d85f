"""allauth's forms for codes and passkeys, with limits on wrong codes and checked names."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.core import ratelimit
from allauth.mfa.adapter import get_adapter as get_factor_adapter
from allauth.mfa.base.forms import AuthenticateForm, ReauthenticateForm
from allauth.mfa.models import Authenticator
from allauth.mfa.webauthn.forms import (
    AddWebAuthnForm,
    AuthenticateWebAuthnForm,
    EditWebAuthnForm,
    LoginWebAuthnForm,
    ReauthenticateWebAuthnForm,
)
from django.core.exceptions import ValidationError
from django.http import HttpRequest

from keyportal.database.encryption import Unreadable
from keyportal.keys.keystring import require_no_key
from keyportal.teams.models import User
from keyportal.teams.sign_in import known_browsers

logger = logging.getLogger(__name__)
NAME_LENGTH = 60


class CodeAttempt:
    """One code that is about to be checked, of a person whose password was right.

    Attack: somebody who knows the password guesses codes. The counts are lower than those of
    passwords, because a code has six digits. The browsers in which the person signed in share a
    count that others can't fill, so nobody is locked out of them.
    """

    def __init__(self, request: HttpRequest, user: User) -> None:
        self._request, self._key = request, str(user.pk)
        is_known = bool(known_browsers.find(request, user))
        self._action = "code_in_known_browser" if is_known else "code_elsewhere"

    def is_allowed(self) -> bool:
        """Count the attempt. False: the code must not be checked."""
        return bool(ratelimit.consume(self._request, action=self._action, key=self._key))

    def succeeded(self) -> None:
        ratelimit.clear(self._request, action=self._action, key=self._key)


class _LimitedCode:
    """For forms of allauth, whose own limit is off with that of wrong passwords."""

    def clean_code(self) -> str:
        adapter = get_adapter()
        attempt = CodeAttempt(adapter.request, self.user)  # type: ignore[attr-defined]  # a mixin
        if not attempt.is_allowed():
            raise adapter.validation_error("too_many_codes")
        try:
            code = str(super().clean_code())  # type: ignore[misc]  # a mixin
        except Unreadable as error:
            logger.error("A second factor can't be decrypted: %s", error)
            raise adapter.validation_error("unreadable_factor") from None
        attempt.succeeded()
        return code


class CodeForm(_LimitedCode, AuthenticateForm):  # type: ignore[misc]  # untyped base
    pass


class CodeAgainForm(_LimitedCode, ReauthenticateForm):  # type: ignore[misc]  # untyped base
    pass


@contextmanager
def _unreadable_is_refused() -> Iterator[None]:
    """Attack: a stranger fills the log with tracebacks. fido2 raises these for JSON that is no
    credential, and allauth expects only some of them.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError):
        raise get_factor_adapter().validation_error("incorrect_code") from None


class _ReadablePasskey:
    def clean_credential(self) -> Authenticator:
        with _unreadable_is_refused():
            return super().clean_credential()  # type: ignore[misc]  # a mixin


class PasskeyForm(_ReadablePasskey, AuthenticateWebAuthnForm):  # type: ignore[misc]  # untyped base
    pass


class PasskeyAgainForm(_ReadablePasskey, ReauthenticateWebAuthnForm):  # type: ignore[misc]  # untyped base
    pass


class PasskeySignInForm(_ReadablePasskey, LoginWebAuthnForm):  # type: ignore[misc]  # untyped base
    pass


def _checked(name: Any) -> str:
    require_no_key(str(name))
    if len(str(name)) > NAME_LENGTH:
        raise ValidationError(f"A name has at most {NAME_LENGTH} characters.")
    return str(name)


class AddPasskeyForm(AddWebAuthnForm):  # type: ignore[misc]  # untyped base
    def clean_name(self) -> str:
        return _checked(super().clean_name())

    def clean(self) -> dict[str, Any]:
        with _unreadable_is_refused():
            return dict(super().clean())


class RenamePasskeyForm(EditWebAuthnForm):  # type: ignore[misc]  # untyped base
    def clean_name(self) -> str:
        return _checked(self.cleaned_data["name"])
