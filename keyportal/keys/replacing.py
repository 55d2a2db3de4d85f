"""Another key in place of one that a report of a leak has deleted; or word that none is needed.

Who makes it gets no more than they could make today, nor more than the key that is gone had.
"""

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys.changes import may_own
from keyportal.keys.lifetime import shortened
from keyportal.keys.models import ApiKey
from keyportal.keys.nonces import SpentNonce
from keyportal.keys.policy import breaches, breaches_by_owning
from keyportal.keys.refusals import HadExpired, KeyLimitReached, NameTaken, NotAMember
from keyportal.keys.remnants import TAKEN, Remnant
from keyportal.keys.secret import KeyString
from keyportal.teams.access import require_change
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.rules import locked_rules


@sensitive_variables("key_string")
def replace(
    remnant: Remnant, *, actor: User, address: str | None = None, nonce: str = ""
) -> tuple[ApiKey, KeyString]:
    """Make a key like the one that is gone, and return it with its plaintext, as `issue` does.

    Raises what `issue` does, `NotAMember`, `HadExpired` or `PermissionDenied`, each after making
    nothing; and `Remnant.DoesNotExist` where it was replaced or dismissed meanwhile.
    """
    try:
        # The team comes first, as wherever both are locked.
        with locked_rules(remnant.team) as team:
            # When this form comes again, what it is about is gone; but that is not what to tell.
            SpentNonce.objects.spend(nonce)
            found = _taken(remnant)
            key, key_string = _issue(found, team, actor, address)
            _require_still(actor, found)
            told = f"{found}: {key} was made in its place"
            AuditEvent.objects.record(
                Action.KEY_REPLACED, target=told, key=found, actor=actor, team=team, address=address
            )
    except KeyLimitReached:
        # As `issue` does, whose row was taken back with all else.
        AuditEvent.objects.record(
            Action.KEY_REFUSED, target=remnant.name, actor=actor, team=team, address=address
        )
        raise
    return key, key_string


def dismiss(remnant: Remnant, *, actor: User, address: str | None = None) -> None:
    """Raises `Remnant.DoesNotExist` where somebody else was faster, or `PermissionDenied`."""
    with transaction.atomic():
        found = _taken(remnant)
        _require_still(actor, found)
        AuditEvent.objects.record(
            Action.LEAK_DISMISSED, key=found, actor=actor, team=found.team, address=address
        )


def obstacles(remnant: Remnant, membership: Membership) -> list[str]:
    """Why this member can't have a key like it made now, a sentence each; none where they can.

    So told in advance; it is judged again, under a lock, when the key is made.
    """
    team, role = membership.team, Role(membership.role)
    keys = ApiKey.objects.of(team)
    told: list[str] = []
    if remnant.has_expired:
        told.append(str(HadExpired()))
    if not may_own(team, remnant.owner):
        told.append(str(NotAMember(remnant.owner.get_username())))
    told += breaches_by_owning(team, remnant.owner_id, role)
    told += breaches(team.policy, like(remnant, team))
    if keys.filter(name=remnant.name).exists():
        told.append(str(NameTaken()))
    elif (used := keys.count()) >= team.key_limit:
        told.append(str(KeyLimitReached(team.key_limit, used)))
    return told


def _taken(remnant: Remnant) -> Remnant:
    """Of several who act on it at one time, one gets it; and it is gone."""
    whole = Remnant.objects.select_related("team", "owner")
    found = whole.select_for_update(of=("self",)).get(pk=remnant.pk)
    Remnant.objects.filter(pk=found.pk).delete()
    return found


def _require_still(actor: User, remnant: Remnant) -> None:
    """Who isn't its owner was an admin when they asked for it, but may have waited for a lock."""
    if actor.pk == remnant.owner_id:
        return
    theirs = Membership.objects.select_for_update(no_key=True)
    membership = theirs.filter(team=remnant.team, user=actor).first()
    if membership is None:
        raise PermissionDenied("You are no member of this team any more.")
    require_change(membership, remnant)


def like(remnant: Remnant, team: Team) -> ApiKey:
    """As it would be, not saved: bounded by what holds today and by what an admin had taken."""
    granted: Limits | None = remnant.granted_limits
    key = ApiKey(
        team=team,
        owner=remnant.owner,
        name=remnant.name,
        expires_at=shortened(remnant.expires_at, team.policy),
        limits=remnant.limits.lowest(team.key_limits if granted is None else granted),
    )
    key.permissions = remnant.permissions
    return key


@sensitive_variables("key_string")
def _issue(
    remnant: Remnant, team: Team, actor: User, address: str | None
) -> tuple[ApiKey, KeyString]:
    if remnant.has_expired:
        raise HadExpired
    if not may_own(team, remnant.owner, among=Membership.objects.select_for_update(no_key=True)):
        raise NotAMember(remnant.owner.get_username())
    wanted = like(remnant, team)
    key, key_string = ApiKey.objects.issue(
        team=team,
        owner=remnant.owner,
        name=remnant.name,
        actor=actor,
        address=address,
        expires_at=wanted.expires_at,
        permissions=wanted.permissions,
        limits=wanted.limits,
        description=remnant.description,
        tags=remnant.tags,
    )
    # Whoever clicks says nothing of what its owner may do with it: that stays as it was.
    for column in TAKEN:
        setattr(key, column, getattr(remnant, column))
    if remnant.is_disabled:
        by = ApiKey.DisabledBy
        key.disabled_at, key.disabled_by = timezone.now(), by.ADMIN if remnant.is_held else by.OWNER
    key.save(update_fields=["disabled_at", "disabled_by", *TAKEN])
    return key, key_string
