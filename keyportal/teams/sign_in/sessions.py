"""How long a session lasts: it ends when it is not used, and at its age at the latest. And where
its user sees it: the device and the address of its last use are in the session.

Attack: a session that was stolen, or left open on a shared computer, works for ever.

Django's sessions end by a time in their row, which is `SESSION_COOKIE_AGE` after the last write.
"""

import time
from collections.abc import Callable
from typing import Any, cast

from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.db import SessionStore as DatabaseSessionStore
from django.dispatch import receiver
from django.http import HttpRequest

from keyportal.teams.models import Session

BEGAN_AT = "began_at"
ACTIVE_AT = "active_at"
ADDRESS = "address"
USER_AGENT = "user_agent"
PROVIDER_SESSION = "provider_session"
USER_AGENT_LENGTH = 300
# A session in use is written no more often than this.
WRITE_INTERVAL_SECONDS = 300


class SessionStore(DatabaseSessionStore):
    @classmethod
    def get_model_class(cls) -> type[Session]:
        return Session

    def create_model_instance(self, data: dict[str, Any]) -> Session:
        row = cast("Session", super().create_model_instance(data))
        row.user_id = data.get(SESSION_KEY)
        row.provider_session = data.get(PROVIDER_SESSION, "")
        return row

    def get_session_cookie_age(self) -> int:
        """Seconds until the session ends if it is not used any more."""
        age = super().get_session_cookie_age()
        began_at = self.get(BEGAN_AT)
        if began_at is None:  # Nobody has signed in.
            return age
        return min(age, int(began_at + settings.SESSION_MAX_AGE - time.time()))


@receiver(user_logged_in)
def begin(request: HttpRequest, **_: object) -> None:
    request.session[BEGAN_AT] = int(time.time())
    _note(request)


def note_use(request: HttpRequest) -> None:
    """Postpone the end of the session. Not in each request, because it writes to the database."""
    now = int(time.time())
    if now - request.session.get(ACTIVE_AT, 0) >= WRITE_INTERVAL_SECONDS:
        _note(request)


def _note(request: HttpRequest) -> None:
    request.session[ACTIVE_AT] = int(time.time())
    request.session[ADDRESS] = request.META.get("REMOTE_ADDR", "")
    request.session[USER_AGENT] = request.META.get("HTTP_USER_AGENT", "")[:USER_AGENT_LENGTH]


def polled(view: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a view whose fragment an open page requests again and again.

    Attack: such a page on an unattended screen keeps its session from ending.
    """
    view.is_polled = True  # type: ignore[attr-defined]  # as Django's `login_not_required` does it
    return view


def delete_expired(*, should_continue: Callable[[], bool] = lambda: True) -> None:
    """Delete the rows of sessions that have ended."""
    if should_continue():
        SessionStore.clear_expired()
