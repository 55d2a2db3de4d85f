"""Which passwords are refused because they are easily guessed for this installation or user."""

import re
from collections.abc import Iterator

from django.conf import settings
from django.contrib.auth.password_validation import (
    CommonPasswordValidator,
    MinimumLengthValidator,
    NumericPasswordValidator,
)
from django.core.exceptions import ValidationError

from keyportal.teams.models import Team, User

MIN_WORD_LENGTH = 3
_PRODUCT = "keyportal"


class InstallationWordsValidator:
    """Refuses a password that is too weak without the words of this installation, `keyportal1`.

    These are the product's name, the server's host name, and the user's own names, address and
    teams. Attack: a guesser tries those first. Other teams' names are no such words, because the
    refusal would tell that a team exists.
    """

    def __init__(self) -> None:
        self._rules = (
            MinimumLengthValidator(),
            CommonPasswordValidator(),
            NumericPasswordValidator(),
        )

    def validate(self, password: str, user: User | None = None) -> None:
        rest = password.casefold()
        for word in sorted(_words(user), key=len, reverse=True):
            rest = rest.replace(word, "")
        if len(rest) == len(password.casefold()):
            return
        try:
            for rule in self._rules:
                rule.validate(re.sub(r"\W|_", "", rest))
        except ValidationError:
            raise ValidationError(
                "This password is too easily guessed: it is little more than the name of this "
                "service, of its host, of your team or of yourself.",
                code="password_of_installation",
            ) from None

    def get_help_text(self) -> str:
        return "Your password can't be little more than a name of this service, team or yourself."


def _words(user: User | None) -> set[str]:
    texts = [_PRODUCT, *settings.ALLOWED_HOSTS, *(_texts_of(user) if user else ())]
    words = {word for text in texts for word in re.split(r"\W|_", text.casefold())}
    return {word for word in words if len(word) >= MIN_WORD_LENGTH and not word.isdigit()}


def _texts_of(user: User) -> Iterator[str]:
    yield from (user.get_username(), user.first_name, user.last_name, user.email)
    if user.pk:
        for names in Team.objects.for_user(user).values_list("name", "slug"):
            yield from names
