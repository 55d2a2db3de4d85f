"""Shared by the tests of people."""

import pytest
from django.core.cache import cache
from pytest_django import Settings

from keyportal.people.links import url_for
from keyportal.people.models import Invitation
from keyportal.teams.models import Role, Team, User


@pytest.fixture(autouse=True)
def fresh_limits(db: None) -> None:
    cache.clear()


@pytest.fixture
def with_mail(settings: Settings) -> None:
    """As with an SMTP server in EMAIL_URL, and KEYPORTAL_URL. The mail is in `mail.outbox`."""
    settings.OUTBOX_EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.PUBLIC_URL = "https://keys.example.com"


@pytest.fixture
def invitation(team: Team, alice: User) -> Invitation:
    return Invitation.objects.create(
        team=team, email="carol@example.com", role=Role.MEMBER, invited_by=alice
    )


def path_of(invitation: Invitation, *, is_mailed: bool = False) -> str:
    """The path of its link."""
    url = url_for(invitation, is_mailed=is_mailed)
    return url[url.index("/invitations/") :]
