"""allauth's pages for passwords. When a password was set, the browser is known to the user."""

from typing import Any

from allauth.account import views
from django.http.response import HttpResponseBase

from keyportal.teams.sign_in import known_browsers


class _RememberBrowser:
    """For a view whose form has a `user`, who has proved who they are when it is valid."""

    def form_valid(self, form: Any) -> HttpResponseBase:
        response: HttpResponseBase = super().form_valid(form)  # type: ignore[misc]  # a mixin
        known_browsers.remember(self.request, response, form.user)  # type: ignore[attr-defined]  # a mixin
        return response


class PasswordChangeView(_RememberBrowser, views.PasswordChangeView):  # type: ignore[misc]  # untyped base
    pass


class PasswordSetView(_RememberBrowser, views.PasswordSetView):  # type: ignore[misc]  # untyped base
    pass


class PasswordResetFromKeyView(_RememberBrowser, views.PasswordResetFromKeyView):  # type: ignore[misc]  # untyped base
    pass
