"""What we decide differently from django-allauth."""

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # untyped base
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Operators make accounts; there is no open sign-up."""
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The peer, or whom a trusted proxy speaks for: `keyportal.proxies` has decided already.

        allauth's own rule reads X-Forwarded-For, which anyone can send.
        """
        return str(request.META.get("REMOTE_ADDR", ""))
