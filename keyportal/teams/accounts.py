"""What we decide differently from django-allauth."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from allauth.account.adapter import DefaultAccountAdapter
from allauth.account.forms import LoginForm
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from keyportal.teams.models import User
from keyportal.teams.signals import sign_in_refused

NO_MATCH = "The user name or the password is wrong."


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # untyped base
    error_messages: ClassVar = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": NO_MATCH,
        "email_password_mismatch": NO_MATCH,
        "too_many_login_attempts": "Too many failed attempts. Wait five minutes, then try again.",
        "enter_current_password": "This is not your current password.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Operators make accounts; there is no open sign-up."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The client's address, as `keyportal.http.trusted_proxies` has found it.

        allauth's own rule reads X-Forwarded-For, which anyone can send.
        """
        return str(request.META.get("REMOTE_ADDR", ""))

    def _get_login_attempts_cache_key(self, request: HttpRequest, **credentials: Any) -> str:
        """A user's name and address share one count, or whoever guesses would have two."""
        user = User.objects.find_by_login(
            credentials.get("email") or credentials.get("username", "")
        )
        if user is None:
            return str(super()._get_login_attempts_cache_key(request, **credentials))
        return f"user:{user.pk}"

    def pre_authenticate(self, request: HttpRequest, **credentials: Any) -> None:
        try:
            super().pre_authenticate(request, **credentials)
        except ValidationError:
            sign_in_refused.send(type(self), request=request, credentials=credentials)
            raise

    def is_safe_url(self, url: str) -> bool:
        """Whether `next` may lead there: this very host, not any other that we answer to."""
        return url_has_allowed_host_and_scheme(
            url, {self.request.get_host()}, require_https=self.request.is_secure()
        )

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("home")

    def get_reset_password_from_key_url(self, key: str) -> str:
        """At the public address, whichever name of ours the request was sent to."""
        url = str(super().get_reset_password_from_key_url(key))
        return settings.PUBLIC_URL + urlsplit(url).path if settings.PUBLIC_URL else url


MAX_LOGIN_LENGTH = 254  # An address, as its column in the database; user names are shorter.


class SignInForm(LoginForm):  # type: ignore[misc]  # untyped base
    def clean_login(self) -> str:
        """What is too long stays too long, and so nobody's, but no longer than that: SQLite fails
        over a name of 50,000 bytes."""
        return str(super().clean_login())[: MAX_LOGIN_LENGTH + 1]
