"""The form to sign in with, where it differs from django-allauth's."""

from allauth.account.forms import LoginForm

LONGEST = 254  # An address, as its column in the database; user names are shorter.


class SignInForm(LoginForm):  # type: ignore[misc]  # untyped base
    def clean_login(self) -> str:
        """What is too long stays too long, and so nobody's, but no longer than that: SQLite fails
        over a name of 50,000 bytes."""
        return str(super().clean_login())[: LONGEST + 1]
