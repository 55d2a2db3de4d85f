from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.teams.models import User


@pytest.fixture
def olga(db: None) -> User:
    """An operator, who is in no team."""
    return User.objects.create_superuser("olga", "olga@example.com")


@pytest.fixture
def operator(sign_in: Callable[[User], Client], olga: User) -> Client:
    return sign_in(olga)
