"""Whether a key keeps to its team's policy: when it is made or changed, and in the list of those
that were there before."""

from collections.abc import Callable, Container
from datetime import datetime, timedelta
from typing import Literal, Protocol

from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.rules.permissions import Endpoints, NamePatterns, Permissions, covers_models
from keyportal.teams.limits import Limits
from keyportal.teams.models import Role, Team, User, lock_team
from keyportal.teams.policy import Policy


class PolicySubject(Protocol):
    """What a policy looks at in a key."""

    name: str
    expires_at: datetime | None
    endpoints: str

    @property
    def permissions(self) -> Permissions: ...


AUDIT_TARGETS = {"policy": "Policy", "key_limits": "Limits of new keys"}


def save_team_rule(
    team: Team,
    column: Literal["policy", "key_limits"],
    rule: Policy | Limits,
    *,
    actor: User | None,
    address: str | None,
) -> None:
    """Of two that change it at once, the audit tells what each has changed."""
    with lock_team(team) as locked:
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


# A date that somebody chose is the end of a day, and the form was open for a while.
LEEWAY = timedelta(days=1)


def widest_permissions(policy: Policy) -> Permissions:
    """What a new key may do where nobody says so: as much as the policy allows."""
    # The kinds are listed from the one that opens most.
    opened = [one for one in Endpoints if not policy.endpoints or one in policy.endpoints]
    return Permissions(policy.models, opened[0])


def violations(policy: Policy, key: PolicySubject, of: Container[str] | None = None) -> list[str]:
    """A sentence for each rule that the key doesn't keep; only of these columns, if they are given.

    A key that was there before its team's policy keeps what it has, and gets no more of it: so
    whoever changes a column answers for that one alone.
    """
    return [
        sentence
        for column, rule in _RULES.items()
        if of is None or column in of
        for sentence in rule(policy, key)
    ]


def _lifetime_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if key.expires_at is None:
        within = f" within {policy.longest_days} days" if policy.longest_days else ""
        return [f"Keys of this team must expire{within}."] if policy.requires_expiry else []
    if policy.longest_days is None:
        return []
    longest = timedelta(days=policy.longest_days) + LEEWAY
    if key.expires_at > timezone.now() + longest:
        return [f"Keys of this team live for at most {policy.longest_days} days."]
    return []


def _models_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if covers_models(policy.models, key.permissions.models):
        return []
    return [f"Keys of this team may call: {', '.join(policy.models)}."]


def _endpoints_violations(policy: Policy, key: PolicySubject) -> list[str]:
    opened = [Endpoints(one) for one in policy.endpoints]
    if not opened or any(one.covers(key.endpoints) for one in opened):
        return []
    labels = "; ".join(one.label for one in opened)
    return [f"Endpoints that keys of this team may have: {labels}."]


def _name_violations(policy: Policy, key: PolicySubject) -> list[str]:
    if not policy.name_pattern or key.name in NamePatterns([policy.name_pattern]):
        return []
    return [f"Names of keys in this team look like {policy.name_pattern}."]


# By the column that each rule is about.
_RULES: dict[str, Callable[[Policy, PolicySubject], list[str]]] = {
    "expires_at": _lifetime_violations,
    "allowed_models": _models_violations,
    "endpoints": _endpoints_violations,
    "name": _name_violations,
}


def ownership_violations(
    policy: Policy, role: Role | None, key_count: Callable[[], int]
) -> list[str]:
    """Rules that one more key of an owner would break.

    `role` is the creator's, None for an operator. `key_count` counts the owner's keys in the team,
    whose row is locked meanwhile: without the lock, two requests could each get the last one.
    """
    sentences = []
    if role is not None and role.rank < Role(policy.creators).rank:
        label = Role(policy.creators).label
        sentences.append(f"In this team, keys are made by: {label} and above.")
    limit = policy.keys_per_member
    if limit is not None and key_count() >= limit:
        sentences.append(f"Each member of this team has at most {limit} keys.")
    return sentences


def set_policy(
    team: Team, policy: Policy, *, actor: User | None, address: str | None = None
) -> None:
    """From now on keys of the team are made and changed by this policy; those there are stay."""
    save_team_rule(team, "policy", policy, actor=actor, address=address)
