"""Signal receivers that record sign-ins, and operators' changes of people and teams.

Signals cover every way: a sign-in by any page, a change of a team by a command or Django's admin.
"""

from collections.abc import Collection
from typing import Any

from allauth.socialaccount.models import SocialAccount
from django.contrib.auth.models import Group
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.cache import cache
from django.db import transaction
from django.db.models import Model
from django.db.models.signals import m2m_changed, post_delete
from django.dispatch import receiver
from django.http import HttpRequest

from keyportal.audit.models import Action, AuditEvent, DeletedUser
from keyportal.audit.source import current_source
from keyportal.audit.tracking import Tracked, track
from keyportal.http.addresses import client_network
from keyportal.teams.access import Actor
from keyportal.teams.models import Membership, Team, User
from keyportal.teams.openid.stored import StoredProvider
from keyportal.teams.signals import sign_in_refused, team_changed, team_created, team_deleted

UNKNOWN_USER = "unknown user"
TOO_MANY_ATTEMPTS = ": too many attempts"
LIMIT_FIELDS = {"limits": "Limits of the team", "key_limits": "Limits of new keys"}


@receiver(user_logged_in)
def record_sign_in(request: HttpRequest, user: User, **_: object) -> None:
    record_for_teams(Action.SIGNED_IN, request, user, actor=user)


@receiver(user_login_failed)
def record_failed_sign_in(
    credentials: dict[str, Any], request: HttpRequest | None = None, **_: object
) -> None:
    """The event has the user as its target and no actor: a stranger may have tried the password."""
    record_for_teams(Action.SIGN_IN_FAILED, request, _user_for(credentials))


@receiver(sign_in_refused)
def record_refused_sign_in(credentials: dict[str, Any], request: HttpRequest, **_: object) -> None:
    """At most one event a minute for each user and network.

    Attack: a flood of guesses fills the table.
    """
    user, client = _user_for(credentials), client_network(request.META.get("REMOTE_ADDR"))
    if cache.add(f"sign-in-refused:{user.pk if user else ''}:{client}", True, timeout=60):
        record_for_teams(Action.SIGN_IN_FAILED, request, user, suffix=TOO_MANY_ATTEMPTS)


@receiver(post_delete, sender=User)
def record_deleted_user(instance: User, **_: object) -> None:
    """Keep the name of a deleted user, because the history has the id only."""
    DeletedUser.objects.create(user_id=instance.pk, username=instance.get_username())


@receiver(team_changed)
def record_team_change(
    former: Team,
    team: Team,
    columns: Collection[str],
    actor: Actor,
    address: str | None,
    **_: object,
) -> None:
    """Record one event for the plain fields and one for each set of limits, with the old values."""
    texts = [
        f"{name.replace('_', ' ').capitalize()}: {before} → {now}"
        for name in sorted({*columns} - LIMIT_FIELDS.keys())
        if (before := getattr(former, name)) != (now := getattr(team, name))
    ]
    changes_by_target = {"Team": texts}
    for name, target in LIMIT_FIELDS.items():
        if name in columns:
            changes_by_target[target] = getattr(team, name).changes_from(getattr(former, name))
    for target, changes in changes_by_target.items():
        AuditEvent.objects.record_changes(
            Action.TEAM_CHANGED,
            target=target,
            changes=changes,
            actor=actor,
            team=team,
            address=address,
        )


@receiver(team_created)
def record_created_team(team: Team, actor: Actor, address: str | None, **_: object) -> None:
    AuditEvent.objects.record(
        Action.TEAM_CREATED, target=team.name, actor=actor, team=team, address=address
    )


@receiver(team_deleted)
def record_deleted_team(team: Team, actor: Actor, address: str | None, **_: object) -> None:
    """Only operators can read the audit of the team from now on."""
    AuditEvent.objects.record(
        Action.TEAM_DELETED, target=team.name, actor=actor, team=team, address=address
    )


def _user_for(credentials: dict[str, Any]) -> User | None:
    """The user whom a sign-in with these credentials is for, if there is one."""
    return User.objects.find_by_login(credentials.get("username") or credentials.get("email") or "")


def record_for_teams(
    action: Action,
    request: HttpRequest | None,
    user: User | None,
    actor: User | None = None,
    suffix: str = "",
) -> None:
    """Record one event for each team of the user, so that the admins of each team see it.

    A login that matches no user is not recorded: people type passwords and key strings into the
    wrong field.
    """
    teams: list[Team | None] = [*Team.objects.for_user(user)] if user else []
    with transaction.atomic():
        for team in teams or [None]:
            AuditEvent.objects.record(
                action,
                target=(user.get_username() if user else UNKNOWN_USER) + suffix,
                actor=actor,
                team=team,
                address=request.META.get("REMOTE_ADDR") if request else None,
            )


def _user_text(user: User) -> str:
    kind = "Service account" if user.is_service_account else "User"
    return f"{kind} {user.get_username()}"


track(
    User,
    Tracked(
        Action.USER_CHANGED,
        (
            *("username", "email", "first_name", "last_name", "contact"),
            *("is_active", "is_off_by_directory", "is_staff", "is_superuser"),
        ),
        secrets=("password",),
        target=_user_text,
        team=lambda user: user.service_team,
    ),
)
track(
    Membership,
    Tracked(
        Action.MEMBER_CHANGED,
        ("role", "granted_by"),
        target=lambda membership: f"Member {membership.user.get_username()}",
        team=lambda membership: membership.team,
    ),
)
track(
    SocialAccount,
    Tracked(
        Action.USER_CHANGED,
        ("provider", "uid"),
        target=lambda account: f"Connected account of {account.user.get_username()}",
    ),
)
track(
    StoredProvider,
    Tracked(
        Action.PROVIDER_CHANGED,
        (
            *("provider_id", "name", "issuer", "client_id", "scopes", "domains"),
            *("create_accounts", "trust_addresses", "addresses_verified"),
            *("groups_claim", "groups", "is_active"),
        ),
        secrets=("encrypted_secret",),
        target=lambda row: f"Identity provider {row}",
    ),
)
track(Group, Tracked(Action.USER_CHANGED, ("name",), target=lambda group: f"Group {group.name}"))


@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=User.user_permissions.through)
@receiver(m2m_changed, sender=Group.permissions.through)
def record_privileges(
    instance: User | Group, action: str, model: type[Model], pk_set: set[int] | None, **_: object
) -> None:
    """Which groups or permissions a user or a group got or lost."""
    verb = {"post_add": "added", "post_remove": "removed", "pre_clear": "all removed"}.get(action)
    if verb is None or pk_set == set():
        return
    rows = model._base_manager.filter(pk__in=pk_set or ()).order_by("pk")
    kind = "Group" if isinstance(instance, Group) else "User"
    what = f"{model._meta.verbose_name_plural} {verb}".capitalize()
    AuditEvent.objects.record_changes(
        Action.USER_CHANGED,
        target=f"{kind} {instance}"[:100],
        changes=[f"{what}: {row}" for row in rows] or [what],
        **current_source(),
    )
