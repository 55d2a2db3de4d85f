"""Sign-in and passwords: where Keyportal differs from django-allauth."""

import logging
from typing import Any, ClassVar, cast
from urllib.parse import urljoin, urlsplit

from allauth.account.adapter import DefaultAccountAdapter, get_adapter
from allauth.account.forms import ChangePasswordForm, LoginForm
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from keyportal.http.addresses import is_loopback
from keyportal.teams.models import User
from keyportal.teams.sign_in import known_browsers
from keyportal.teams.sign_in.attempts import Attempt
from keyportal.teams.sign_in.reauthentication import is_recent
from keyportal.teams.signals import sign_in_refused

logger = logging.getLogger(__name__)
NO_MATCH = "The user name or the password is wrong."


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # untyped base
    error_messages: ClassVar = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": NO_MATCH,
        "email_password_mismatch": NO_MATCH,
        "too_many_login_attempts": (
            "Too many failed attempts. Wait five minutes, then try again. If somebody else tries "
            "your password, reset it: then you can sign in at once."
        ),
        "enter_current_password": "This is not your current password.",
        "incorrect_password": "This is not your password.",
        "too_many_codes": (
            "Too many wrong codes. Wait five minutes, then try again. Somebody who tries codes "
            "here knows your password: if it was not you, change it."
        ),
        "unreadable_factor": (
            "This installation can't read your second factor any more. Use a passkey, or ask an "
            "operator to reset your second factor."
        ),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Nobody signs up by themselves: people are invited, and make an account on that page."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The client's address, which `keyportal.http.trusted_proxies` has put into REMOTE_ADDR.

        Attack: allauth's own rule reads X-Forwarded-For, which a client can forge to get a new
        count of failed sign-ins for every request.
        """
        return str(request.META.get("REMOTE_ADDR", ""))

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """Check a password at sign-in, within the limits on wrong ones.

        Sends `sign_in_refused`, for the audit, when there were too many attempts.
        """
        if not settings.PASSWORD_SIGN_IN:
            return None
        attempt = Attempt(request, credentials.get("email") or credentials.get("username", ""))
        if not attempt.is_allowed():
            sign_in_refused.send(type(self), request=request, credentials=credentials)
            raise self.validation_error("too_many_login_attempts")
        user: User | None = super().authenticate(request, **credentials)
        attempt.failed() if user is None else attempt.succeeded()
        return user

    def pre_login(self, request: HttpRequest, user: User, **more: Any) -> HttpResponse | None:
        """Attack: a service account signs in by a way that needs no password, and the audit then
        has a sign-in of nobody. `PeopleBackend` would refuse the session, but later.
        """
        if user.is_service_account:
            return cast("HttpResponse", self.respond_user_inactive(request, user))
        return cast("HttpResponse | None", super().pre_login(request, user, **more))

    def post_login(self, request: HttpRequest, user: User, **more: Any) -> HttpResponseBase:
        response: HttpResponseBase = super().post_login(request, user, **more)
        known_browsers.remember(request, response, user)
        return response

    def is_reauthentication_required(self, *, app: str, **_: Any) -> bool:
        """allauth would also ask those who have just signed in."""
        return not is_recent(self.request)

    def get_reauthentication_methods(self, user: User) -> list[dict[str, Any]]:
        """Without passwords, not by password either."""
        methods: list[dict[str, Any]] = super().get_reauthentication_methods(user)
        return [
            method
            for method in methods
            if settings.PASSWORD_SIGN_IN or method["id"] != "reauthenticate"
        ]

    def set_password(self, user: User, password: str) -> None:
        """Save a password that the user has chosen on a page of ours."""
        user.set_password(password)
        user.must_change_password = False
        user.save(update_fields=["password", "must_change_password"])

    def send_notification_mail(
        self,
        template_prefix: str,
        user: User,
        context: dict[str, Any] | None = None,
        email: str | None = None,
    ) -> None:
        """To the address with which the account is found, see `delete_former_email_addresses`."""
        super().send_notification_mail(template_prefix, user, context, email or user.email)

    def is_safe_url(self, url: str) -> bool:
        """Whether `next` may redirect to `url`: only to the host of this request.

        Attack: an open redirect; allauth would also allow every host in ALLOWED_HOSTS.
        """
        return url_has_allowed_host_and_scheme(
            url, {self.request.get_host()}, require_https=self.request.is_secure()
        )

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("home")

    def get_reset_password_from_key_url(self, key: str) -> str:
        """The link in the mail, at the address in the settings.

        Attack: allauth builds it from the Host header, whose name or port the sender of the request
        chooses, so the user would send the token to another server.
        """
        path = urlsplit(str(super().get_reset_password_from_key_url(key))).path
        return urljoin(settings.PUBLIC_URL or f"http://127.0.0.1:{settings.PORT}", path)

    def send_password_reset_mail(self, user: User, email: str, context: dict[str, Any]) -> None:
        """Without a public address, only somebody on this machine gets a link, to this machine."""
        if settings.PUBLIC_URL or is_loopback(self.get_client_ip(self.request)):
            super().send_password_reset_mail(user, email, context)
        else:
            logger.warning("No link to reset a password is mailed: KEYPORTAL_URL is not set.")


MAX_LOGIN_LENGTH = 254  # As the column of e-mail addresses; user names are shorter.


class SignInForm(LoginForm):  # type: ignore[misc]  # untyped base
    def clean_login(self) -> str:
        """Cut an overlong login to one character more than any user has.

        It still matches no user. Uncut, a login of 50,000 bytes makes SQLite raise an error.
        """
        return str(super().clean_login())[: MAX_LOGIN_LENGTH + 1]

    def login(self, request: HttpRequest, redirect_url: str | None = None) -> HttpResponseBase:
        """allauth gives a session that is kept a fixed age, beyond the end that ours may have."""
        response: HttpResponseBase = super().login(request, redirect_url)
        if self.cleaned_data["remember"]:
            request.session.set_expiry(None)
        return response


class PasswordChangeForm(ChangePasswordForm):  # type: ignore[misc]  # untyped base
    def clean_oldpassword(self) -> str:
        """Check the current password, within the limits of the sign-in.

        Attack: someone at an open session, who does not know the password, guesses it here.
        """
        adapter = get_adapter()
        attempt = Attempt(adapter.request, self.user.get_username())
        if not attempt.is_allowed():
            raise adapter.validation_error("too_many_login_attempts")
        try:
            password = str(super().clean_oldpassword())
        except ValidationError:
            attempt.failed()
            raise
        attempt.succeeded()
        return password

    def clean_password1(self) -> str:
        """Attack: an initial password, which others know, is "changed" to itself."""
        password = str(self.cleaned_data["password1"])
        if self.user.must_change_password and self.user.check_password(password):
            raise ValidationError("Choose another password than the present one.")
        return password
