"""Sign-ins are audited wherever they come from: Django tells of each by a signal. So are changes
of a team by operators, who have a shell and the admin for that.
"""

from collections.abc import Collection
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.cache import cache
from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.http import HttpRequest

from keyportal.audit.models import Action, AuditEvent, DeletedUser
from keyportal.http.addresses import client_network
from keyportal.teams.models import Team, User
from keyportal.teams.signals import sign_in_refused, team_changed

UNKNOWN_USER = "unknown user"
TOO_MANY_ATTEMPTS = ": too many attempts"
LIMIT_FIELDS = {"limits": "Limits of the team", "key_limits": "Limits of new keys"}


@receiver(user_logged_in)
def record_sign_in(request: HttpRequest, user: User, **_: object) -> None:
    _record(Action.SIGNED_IN, request, user, actor=user)


@receiver(user_login_failed)
def record_failed_sign_in(
    credentials: dict[str, Any], request: HttpRequest | None = None, **_: object
) -> None:
    """Whoever failed is not known to be the user, so the row names a target and no actor."""
    _record(Action.SIGN_IN_FAILED, request, _user_for(credentials))


@receiver(sign_in_refused)
def record_refused_sign_in(credentials: dict[str, Any], request: HttpRequest, **_: object) -> None:
    """One row a minute for each user and network: a flood of guesses must not fill the table."""
    user, client = _user_for(credentials), client_network(request.META.get("REMOTE_ADDR"))
    if cache.add(f"sign-in-refused:{user.pk if user else ''}:{client}", True, timeout=60):
        _record(Action.SIGN_IN_FAILED, request, user, note=TOO_MANY_ATTEMPTS)


@receiver(post_delete, sender=User)
def record_deleted_user(instance: User, **_: object) -> None:
    """History names people by their ids: in the transaction that deletes one, keep the name."""
    DeletedUser.objects.create(user_id=instance.pk, username=instance.get_username())


@receiver(team_changed)
def record_team_change(former: Team, team: Team, columns: Collection[str], **who: Any) -> None:
    """A row for the team itself, and one for each set of limits, with old and new values."""
    who = {"actor": who["actor"], "address": who["address"], "team": team}
    plain = [
        f"{name.replace('_', ' ').capitalize()}: {before} → {now}"
        for name in sorted({*columns} - LIMIT_FIELDS.keys())
        if (before := getattr(former, name)) != (now := getattr(team, name))
    ]
    told = {"Team": plain}
    for name, target in LIMIT_FIELDS.items():
        if name in columns:
            told[target] = getattr(team, name).changes_from(getattr(former, name))
    for target, changes in told.items():
        AuditEvent.objects.record_changes(
            Action.TEAM_CHANGED, target=target, changes=changes, **who
        )


def _user_for(credentials: dict[str, Any]) -> User | None:
    return User.objects.find_by_login(credentials.get("username") or credentials.get("email") or "")


def _record(
    action: Action,
    request: HttpRequest | None,
    user: User | None,
    actor: User | None = None,
    note: str = "",
) -> None:
    """One row for each of the user's teams, so that each team's admins see it on their page.

    What was typed is kept only when it names a user: people type passwords, and keys, into the
    wrong field.
    """
    teams: list[Team | None] = [*Team.objects.for_user(user)] if user else []
    with transaction.atomic():
        for team in teams or [None]:
            AuditEvent.objects.record(
                action,
                target=(user.get_username() if user else UNKNOWN_USER) + note,
                actor=actor,
                team=team,
                address=request.META.get("REMOTE_ADDR") if request else None,
            )
