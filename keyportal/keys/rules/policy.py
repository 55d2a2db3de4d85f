"""Whether a key complies with its team's policy: checked when it is created or changed, and in the
list of older keys."""

from collections.abc import Callable, Container
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.rules.permissions import (
    UNRESTRICTED,
    Endpoints,
    NamePatterns,
    Permissions,
    covers_models,
)
from keyportal.teams.access import Actor, lock_team
from keyportal.teams.limits import Limits
from keyportal.teams.models import Role, Team
from keyportal.teams.policy import Policy


class PolicySubject(Protocol):
    """The attributes of a key that a policy restricts."""

    @property
    def name(self) -> str: ...
    @property
    def expires_at(self) -> datetime | None: ...
    @property
    def permissions(self) -> Permissions: ...
    @property
    def has_service_account(self) -> bool: ...
    @property
    def read_at(self) -> datetime:
        """Now, by the database's clock. Attack: on a host whose clock is ahead, a key gets a longer
        life than the policy allows."""


class PlannedKey(NamedTuple):
    """What a policy restricts of a key that does not exist yet."""

    read_at: datetime
    name: str = ""
    expires_at: datetime | None = None
    permissions: Permissions = UNRESTRICTED
    has_service_account: bool = True
    """The owner is checked when the key is created."""


AUDIT_TARGETS = {"policy": "Policy", "key_limits": "Limits of new keys"}


def save_team_rule(
    team: Team,
    column: Literal["policy", "key_limits"],
    rule: Policy | Limits,
    *,
    actor: Actor,
    address: str | None,
) -> None:
    """Save the rule with an audit row, for an admin.

    The lock makes the audit exact for concurrent changes.
    """
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        changes = rule.changes_from(getattr(locked, column))
        setattr(locked, column, rule)
        locked.save(update_fields=[column])
        AuditEvent.objects.record_changes(
            Action.TEAM_CHANGED,
            target=AUDIT_TARGETS[column],
            changes=changes,
            actor=actor,
            team=locked,
            address=address,
        )


# A chosen date means the end of that day, and the form may have been open for a while.
LEEWAY = timedelta(days=1)


def widest_permissions(policy: Policy) -> Permissions:
    """All that the policy allows: the permissions of a new key for which none were chosen."""
    # `Endpoints` begins with the widest value.
    allowed = [value for value in Endpoints if not policy.endpoints or value in policy.endpoints]
    return Permissions(policy.models, allowed[0])


def violations(
    policy: Policy, key: PolicySubject, columns: Container[str] | None = None
) -> list[str]:
    """A sentence for each rule that the key breaks; only rules about `columns`, if given.

    A key that is older than the policy keeps its values. So a change is checked only for the
    columns that it changes.
    """
    return [
        sentence
        for column, rule in _RULES.items()
        if columns is None or column in columns
        for sentence in rule(policy, key)
    ]


def _lifetime_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if key.expires_at is None:
        within = f" within {policy.max_lifetime_days} days" if policy.max_lifetime_days else ""
        return [f"Keys of this team must expire{within}."] if policy.requires_expiry else []
    if policy.max_lifetime_days is None:
        return []
    longest = timedelta(days=policy.max_lifetime_days) + LEEWAY
    if key.expires_at > key.read_at + longest:
        return [f"Keys of this team must expire within {policy.max_lifetime_days} days."]
    return []


def _models_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if covers_models(policy.models, key.permissions.models):
        return []
    return [f"Keys of this team may only call: {', '.join(policy.models)}."]


def _endpoints_violations(policy: Policy, key: PolicySubject) -> list[str]:
    allowed = [Endpoints(value) for value in policy.endpoints]
    if not allowed or any(value.covers(key.permissions.endpoints) for value in allowed):
        return []
    labels = "; ".join(value.label for value in allowed)
    return [f"Keys of this team may only have these endpoints: {labels}."]


def _name_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if not policy.name_pattern or key.name in NamePatterns([policy.name_pattern]):
        return []
    return [f"Names of keys in this team must match {policy.name_pattern}."]


def _owner_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if not policy.service_accounts_only or key.has_service_account:
        return []
    return ["Keys of this team may only belong to service accounts."]


# By the column that a rule is about.
_RULES: dict[str, Callable[[Policy, PolicySubject], list[str]]] = {
    "expires_at": _lifetime_violations,
    "allowed_models": _models_violations,
    "endpoints": _endpoints_violations,
    "name": _name_violations,
    "owner": _owner_violations,
}


def ownership_violations(
    policy: Policy, role: Role | None, key_count: Callable[[], int]
) -> list[str]:
    """A sentence for each rule that one more key of this owner would break.

    `role` is the creator's, None for an operator. `key_count` counts the owner's keys in the team.
    The caller locks the row of the team; without the lock, two requests could each create the last
    allowed key.
    """
    sentences = []
    if role is not None and role.rank < Role(policy.min_creator_role).rank:
        label = Role(policy.min_creator_role).label
        sentences.append(f"Only these roles can create keys in this team: {label} and above.")
    limit = policy.max_keys_per_member
    if limit is not None and key_count() >= limit:
        sentences.append(f"A member of this team can have at most {limit} keys.")
    return sentences


def set_policy(team: Team, policy: Policy, *, actor: Actor, address: str | None = None) -> None:
    """The policy holds for keys that are created or changed from now on; other keys stay."""
    save_team_rule(team, "policy", policy, actor=actor, address=address)
