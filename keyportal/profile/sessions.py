"""The sessions of a person, as the person sees them."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.contrib.sessions.backends.base import SessionBase
from django.utils import timezone
from django.utils.crypto import salted_hmac

from keyportal.teams.models import Session, User
from keyportal.teams.sign_in.sessions import ACTIVE_AT, ADDRESS, BEGAN_AT, USER_AGENT

# The first that occurs. Edge and Opera also call themselves Chrome, and Chrome calls itself Safari.
BROWSERS = {
    "Edg": "Edge",
    "OPR": "Opera",
    "Firefox": "Firefox",
    "Chrom": "Chrome",
    "Safari": "Safari",
}
SYSTEMS = {
    "iPhone": "iPhone",
    "iPad": "iPad",
    "Android": "Android",
    "Windows": "Windows",
    "Mac OS": "macOS",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}


@dataclass(frozen=True)
class OwnSession:
    id: str
    """Not the session's key, with which anyone could take the session over."""
    device: str
    address: str
    began_at: datetime
    active_at: datetime
    """Up to five minutes before the last use."""
    is_current: bool


def sessions_of(user: User, current: SessionBase) -> list[OwnSession]:
    """Those that have not ended, the current one first, then by last use."""
    sessions = [_session(row, current) for row in _rows(user)]
    return sorted(sessions, key=lambda each: (not each.is_current, -each.active_at.timestamp()))


def end(user: User, current: SessionBase, session_id: str) -> int:
    """End the session with this id; with an empty id all but the current one. Returns the count."""
    keys = [
        row.session_key
        for row in _rows(user)
        if (_id(row) == session_id if session_id else row.session_key != current.session_key)
    ]
    count, _ = Session.objects.filter(user_id=user.pk, session_key__in=keys).delete()
    return count


def _rows(user: User) -> list[Session]:
    return [*Session.objects.filter(user_id=user.pk, expire_date__gt=timezone.now())]


def _session(row: Session, current: SessionBase) -> OwnSession:
    data: dict[str, Any] = row.get_decoded()
    return OwnSession(
        id=_id(row),
        device=device_name(data.get(USER_AGENT, "")),
        address=data.get(ADDRESS, ""),
        began_at=datetime.fromtimestamp(data.get(BEGAN_AT, 0), UTC),
        active_at=datetime.fromtimestamp(data.get(ACTIVE_AT, 0), UTC),
        is_current=row.session_key == current.session_key,
    )


def _id(row: Session) -> str:
    return salted_hmac("session id", row.session_key, algorithm="sha256").hexdigest()[:20]


def device_name(user_agent: str) -> str:
    """Such as `Firefox on Linux`."""
    browser = next((name for mark, name in BROWSERS.items() if mark in user_agent), "")
    system = next((name for mark, name in SYSTEMS.items() if mark in user_agent), "")
    program = re.match(r"[\w.+-]{1,40}", user_agent)
    browser = browser or (program[0] if program else "Unknown browser")
    return f"{browser} on {system}" if system else browser
