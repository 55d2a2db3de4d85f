from collections.abc import Callable
from types import ModuleType
from typing import Any

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


BeforeLock = Callable[..., None]


@pytest.fixture
def before_lock(monkeypatch: pytest.MonkeyPatch) -> BeforeLock:
    """`before_lock("lock_team", act, module)`: act when the page has let the person in, and waits
    for that lock."""

    def replace(name: str, act: Callable[[], object], *modules: ModuleType) -> None:
        def act_and_lock(*args: Any, **options: Any) -> Any:
            act()
            return lock(*args, **options)

        lock = getattr(modules[0], name)
        for module in modules:
            monkeypatch.setattr(module, name, act_and_lock)

    return replace
