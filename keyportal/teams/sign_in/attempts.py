"""Limits on wrong passwords, at sign-in and where a page asks for the current password.

| Failures counted for | At most | Against |
|---|---|---|
| one network | 10 a minute | one password, or a few, tried on many accounts |
| one account from one network | 5 in 5 minutes | guessing from one place |
| one account from all networks | 50 an hour | guessing from many places |
| one account in a browser that it knows, instead of these | 10 in 5 minutes | a stolen browser |

Attack: wrong passwords from everywhere, for ever, so that the account's user can't sign in. A
browser in which they signed in before has a count of its own, which nobody else can fill. In a new
browser, a new password by mail makes it known.

Attack: find out that a user name and an e-mail address belong to one person. Failures are counted
for the text that was typed, whether such a user exists or not, so the count of one says nothing
about the other.

The counts are in allauth's limiter, which keeps them in the database for all workers. The rates are
in ACCOUNT_RATE_LIMITS.
"""

from allauth.core import ratelimit
from django.http import HttpRequest

from keyportal.http.addresses import client_network
from keyportal.teams.models import User
from keyportal.teams.sign_in import known_browsers


class Attempt:
    """One password that is about to be checked. Then call `failed` or `succeeded`."""

    def __init__(self, request: HttpRequest, login: str) -> None:
        """`login` is the user name or e-mail address as it was typed."""
        self._request = request
        # Upper case first: the database ignores case, and the upper case of a long s is S.
        self._login = login.strip().upper().lower()
        self._network = client_network(request.META.get("REMOTE_ADDR"))
        self._browser = known_browsers.find(request, User.objects.find_by_login(login.strip()))

    def is_allowed(self) -> bool:
        """Count the attempt. False: the password must not be checked."""
        if self._browser:
            return self._consume("failed_in_known_browser", self._browser)
        return (
            self._consume("failed_from_network", dry_run=True)
            and self._consume("failed_for_account", self._login, dry_run=True)
            and self._consume("failed_for_account_from_network", self._pair)
        )

    def failed(self) -> None:
        if not self._browser:
            self._consume("failed_from_network")
            self._consume("failed_for_account", self._login)

    def succeeded(self) -> None:
        """Clear only the counts of this account in this place.

        Attack: a guesser signs in to an account of their own to clear the count of their network.
        """
        if self._browser:
            self._clear("failed_in_known_browser", self._browser)
        else:
            self._clear("failed_for_account_from_network", self._pair)

    @property
    def _pair(self) -> str:
        return f"{self._network} {self._login}"

    def _consume(self, action: str, key: str | None = None, *, dry_run: bool = False) -> bool:
        return bool(ratelimit.consume(self._request, action=action, key=key, dry_run=dry_run))

    def _clear(self, action: str, key: str) -> None:
        ratelimit.clear(self._request, action=action, key=key)
