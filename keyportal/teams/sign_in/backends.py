"""Who may have a session at all."""

from typing import Any

from allauth.account.auth_backends import AuthenticationBackend


class PeopleBackend(AuthenticationBackend):  # type: ignore[misc]  # untyped base
    def user_can_authenticate(self, user: Any) -> bool:
        """Not a service account, whatever page or code began the session: it is read here for each
        request.

        Attack: a way to sign in that is added later, or a mapping of a company's accounts, reaches
        one of them.
        """
        return super().user_can_authenticate(user) and not user.is_service_account
