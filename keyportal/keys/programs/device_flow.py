"""The steps of the device flow (RFC 8628): begin, approve or deny, redeem; and what ends a key.

The token is an ordinary API key of the person: the gateway judges it like each other, so it ends
with the next request. It ends with the person's session, and after 12 hours at the latest.
"""

import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple, TypedDict

from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.http import Http404
from django.utils.crypto import salted_hmac
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.source import current_source
from keyportal.database.clock import database_now
from keyportal.keys import keystring
from keyportal.keys.exceptions import KeyActionError
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import ApiKey, ProgramSignIn, Secret
from keyportal.keys.models.program_sign_in import POLL_SECONDS
from keyportal.teams.models import Team, User

KEY_LIFETIME = timedelta(hours=12)
FORGET_AFTER = timedelta(hours=1)
# RFC 8628, 6.1: no vowels, so no words, and no letters that look alike. 34 bits.
USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
USER_CODE_LENGTH = 8


class Refused(Exception):
    """The program gets no key (yet). `code` is that of RFC 8628, 3.5."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(description)
        self.code = code


class Codes(NamedTuple):
    """What a program gets when it begins. The database has digests only."""

    device_code: str
    user_code: str


class Source(TypedDict):
    client: str
    address: str | None


def normalize_user_code(text: str) -> str:
    """People type it in small letters, and with or without the hyphen."""
    return "".join(letter for letter in text.upper() if letter in USER_CODE_LETTERS)


def _digest_user_code(user_code: str) -> str:
    # Attack: a reader of the database tries all codes. They don't have SECRET_KEY.
    return salted_hmac("keyportal.device-code", user_code, algorithm="sha256").hexdigest()


def _digest_device_code(device_code: str) -> bytes:
    return hashlib.sha256(device_code.encode()).digest()


@sensitive_variables()
def begin(client: str, address: str | None) -> Codes:
    """Make codes for a program that calls itself `client`."""
    while True:
        letters = [secrets.choice(USER_CODE_LETTERS) for _ in range(USER_CODE_LENGTH)]
        codes = Codes(secrets.token_urlsafe(32), "".join(letters))
        with suppress(IntegrityError), transaction.atomic():
            ProgramSignIn.objects.create(
                device_digest=_digest_device_code(codes.device_code),
                user_code_digest=_digest_user_code(codes.user_code),
                client=client,
                address=address,
            )
            return codes


def find_undecided(user_code: str) -> ProgramSignIn | None:
    digest = _digest_user_code(normalize_user_code(user_code))
    return ProgramSignIn.objects.undecided().filter(user_code_digest=digest).first()


def approve(sign_in: ProgramSignIn, user: User, team: Team, session_key: str) -> bool:
    """Let the program have a key of this user. False if it is too late."""
    undecided = ProgramSignIn.objects.undecided().filter(pk=sign_in.pk)
    return bool(undecided.update(user=user, team=team, session_key=session_key))


def deny(sign_in: ProgramSignIn) -> bool:
    undecided = ProgramSignIn.objects.undecided().filter(pk=sign_in.pk)
    return bool(undecided.update(is_denied=True))


@sensitive_variables()
def redeem(device_code: str, client: str) -> tuple[ApiKey, KeyString]:
    """Give the program its key, once. Raises `Refused`.

    Two transactions: the first takes the sign-in away from other polls, the second locks what a key
    locks. In one, it could wait for a deactivation of the user that waits for it.
    """
    with transaction.atomic():
        claimed = _claim(_digest_device_code(device_code), client)
    if isinstance(claimed, Refused):
        raise claimed
    try:
        with transaction.atomic():
            return _issue(claimed)
    except (KeyActionError, PermissionDenied, Http404) as error:
        # The person has lost a role or their team, or the policy has changed since they approved.
        raise Refused("access_denied", str(error) or "You may not create a key.") from None


def _claim(device_digest: bytes, client: str) -> ProgramSignIn | Refused:
    """The approved sign-in, which is deleted; or why there is none. An error would undo changes."""
    waiting = ProgramSignIn.objects.with_clock().filter(key=None, client=client)
    row = waiting.select_for_update(of=("self",)).filter(device_digest=device_digest).first()
    if row is None:
        return Refused("invalid_grant", "This device code does not exist, or was used.")
    if row.has_expired:
        return Refused("expired_token")
    if row.is_denied:
        return Refused("access_denied", "The person has refused.")
    if row.user_id is not None:
        ProgramSignIn.objects.filter(pk=row.pk).delete()
        return row
    own = ProgramSignIn.objects.filter(pk=row.pk)
    if row.is_polled_early:
        own.update(polled_at=Now(), interval=row.interval + POLL_SECONDS)
        return Refused("slow_down")
    own.update(polled_at=Now())
    return Refused("authorization_pending")


@sensitive_variables("key_string")
def _issue(sign_in: ProgramSignIn) -> tuple[ApiKey, KeyString]:
    """`ApiKey.objects.issue` judges the person's role and the team's policy of this moment."""
    user, team = sign_in.user, sign_in.team
    if user is None or team is None:
        raise PermissionDenied
    key, key_string = ApiKey.objects.issue(
        team=team,
        owner=user,
        actor=user,
        name=key_name(sign_in.client, user),
        address=sign_in.address,
        expires_at=database_now() + KEY_LIFETIME,
        description=f"A program signed in from {sign_in.address or 'an unknown address'}.",
    )
    # Last, so that nothing waits for the session's row: `end_with_session` comes after it.
    session = sign_in.session()
    if session is None:
        raise PermissionDenied("The session in which this was approved has ended.")
    key.expires_at = min(_require_time(key.expires_at), session.expire_date)
    key.save(update_fields=["expires_at"])
    sign_in.pk, sign_in.key = None, key
    sign_in.save(force_insert=True)
    return key, key_string


def _require_time(time: datetime | None) -> datetime:
    assert time is not None  # noqa: S101 - for the type checker
    return time


def key_name(client: str, user: User) -> str:
    """Names are unique in a team, and a person may sign in with several programs."""
    suffix = f" of {user.get_username()[:12]} {secrets.token_hex(2)}"
    return f"{client[: 64 - len(suffix)]}{suffix}"


@sensitive_variables("token")
def revoke(token: str, address: str | None) -> None:
    """End the key that a program got. Any other token is ignored (RFC 7009, 2.2).

    Attack: a stranger who found a key of another kind would end it without a trace of a leak; there
    is the report of leaked keys for that.
    """
    secret = Secret.objects.filter(
        digest=keystring.digest(token.encode()), key__program_sign_in__isnull=False
    ).first()
    if secret is not None:
        with suppress(ApiKey.DoesNotExist):
            secret.key.revoke(actor=None, address=address)


def end_with_session(session_key: str) -> None:
    """Called in the transaction that deletes the session, after its row is locked.

    Without the lock on the team: the caller may hold one on the user, which others take later.
    """
    ProgramSignIn.objects.filter(session_key=session_key, key=None).delete()
    ended = ProgramSignIn.objects.filter(session_key=session_key).select_related("key__owner")
    for sign_in in ended:
        if sign_in.key is None:
            continue
        keys = ApiKey.objects.lock_owned(sign_in.key.owner, sign_in.key.team_id)
        for key in keys.filter(pk=sign_in.key.pk):
            key.delete_locked(**current_source())


def delete_expired(*, should_continue: Callable[[], bool] = lambda: True) -> None:
    """Delete keys of programs that have expired, and sign-ins that came to nothing.

    The keys are refused already. But each counts against the team's limit of keys.
    """
    ProgramSignIn.objects.filter(key=None, created_at__lt=Now() - FORGET_AFTER).delete()
    expired = ApiKey.objects.filter(program_sign_in__isnull=False, expires_at__lte=Now())
    for key in [*expired.select_related("team")]:
        if not should_continue():
            return
        with suppress(ApiKey.DoesNotExist):
            key.revoke(actor=None)
