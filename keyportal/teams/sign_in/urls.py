"""URLs of second factors: under /accounts/ for the sign-in, under /profile/ to set them up."""

from collections.abc import Callable
from typing import Any

from allauth.mfa.base import views as base
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from django.contrib.auth.decorators import login_not_required
from django.urls import URLPattern, path
from django.views.decorators.cache import never_cache
from django.views.generic import RedirectView

from keyportal.teams.sign_in.reauthentication import recently_authenticated


def _page(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """Neither a proxy nor the Back button may show them again."""
    return path(route, never_cache(view), name=name)


def _change(route: str, view: Callable[..., Any], name: str) -> URLPattern:
    """allauth would ask too, but then store what was sent, and send it again."""
    return _page(route, recently_authenticated()(view), name)


account_urls = [
    _page("second-factor/", base.authenticate, "mfa_authenticate"),
    _page("passkey/", login_not_required(webauthn.login_webauthn), "mfa_login_webauthn"),
    _page("reauthenticate/code/", base.reauthenticate, "mfa_reauthenticate"),
    _page(
        "reauthenticate/passkey/", webauthn.reauthenticate_webauthn, "mfa_reauthenticate_webauthn"
    ),
]
profile_urls = [
    _page("sign-in/", base.index, "mfa_index"),
    _change("sign-in/app/add/", totp.activate_totp, "mfa_activate_totp"),
    _change("sign-in/app/remove/", totp.deactivate_totp, "mfa_deactivate_totp"),
    # allauth redirects here. Its list is part of the page above.
    _page("sign-in/passkeys/", RedirectView.as_view(pattern_name="mfa_index"), "mfa_list_webauthn"),
    _change("sign-in/passkeys/add/", webauthn.add_webauthn, "mfa_add_webauthn"),
    _change("sign-in/passkeys/<int:pk>/rename/", webauthn.edit_webauthn, "mfa_edit_webauthn"),
    _change("sign-in/passkeys/<int:pk>/remove/", webauthn.remove_webauthn, "mfa_remove_webauthn"),
    _change(
        "sign-in/recovery-codes/", recovery_codes.view_recovery_codes, "mfa_view_recovery_codes"
    ),
    _change(
        "sign-in/recovery-codes/new/",
        recovery_codes.generate_recovery_codes,
        "mfa_generate_recovery_codes",
    ),
]
