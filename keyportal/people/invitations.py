"""Invite people to a team, and let them in. Each change is recorded in the audit.

All hold the lock on the team, so an invitation that is read under it is not used or revoked
meanwhile.
"""

from collections.abc import Sequence
from datetime import timedelta

from allauth.account.models import EmailAddress
from allauth.core import ratelimit
from django.db.models.functions import Now
from django.http import HttpRequest

from keyportal.audit.models import Action, AuditEvent
from keyportal.audit.source import acting_as
from keyportal.people import links
from keyportal.people.emails import is_mail_set_up, send_invitation
from keyportal.people.models import Invitation, new_expiry, new_nonce
from keyportal.teams.access import Actor, lock_team, require_grant
from keyportal.teams.models import Membership, Role, Team, User

# An expired invitation can be sent again for so long. Then the address of a stranger is forgotten.
EXPIRED_FOR = timedelta(days=30)
MAX_PENDING = 500


class TooManyInvitations(Exception):
    """Nobody was invited. The message is for whoever invites."""


class OtherAccount(Exception):
    """The invitation is for another address than the user's."""


def invite(
    team: Team,
    emails: Sequence[str],
    role: Role,
    *,
    note: str = "",
    actor: Actor,
    address: str | None,
) -> list[Invitation]:
    """Invite these addresses, again if they are invited already. A former link then ends.

    Whether an address has an account makes no difference. Raises `TooManyInvitations`, and what
    `lock_team` and `require_grant` raise.
    """
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        pending = Invitation.objects.for_team(locked)
        # Attack: an admin replaces the invitation of an owner by a weaker one.
        replaced = pending.filter(email__in=emails).values_list("role", flat=True)
        require_grant(actor, locked, role, *replaced)
        invited_by = actor if isinstance(actor, User) else None
        pending.filter(expires_at__lt=Now() - EXPIRED_FOR).delete()
        if pending.exclude(email__in=emails).count() + len(emails) > MAX_PENDING:
            raise TooManyInvitations(f"A team has at most {MAX_PENDING} pending invitations.")
        invitations = []
        for email in emails:
            values = {
                "role": role,
                "note": note,
                "invited_by": invited_by,
                "nonce": new_nonce(),
                "expires_at": new_expiry(),
            }
            invitation, _ = Invitation.objects.update_or_create(
                team=locked, email=email, defaults=values
            )
            invitation.team = locked
            _send(invitation, actor=actor, address=address)
            invitations.append(invitation)
    return invitations


def resend(invitation: Invitation, *, actor: Actor, address: str | None) -> Invitation:
    """Send it again, for another seven days. It is now the actor's, who must be allowed the role.

    Raises `Invitation.DoesNotExist` if it was used or revoked meanwhile, and the same as `invite`.
    """
    with lock_team(invitation.team, actor=actor, role=Role.ADMIN) as team:
        row = Invitation.objects.for_team(team).get(pk=invitation.pk)
        require_grant(actor, team, row.role)
        row.invited_by = actor if isinstance(actor, User) else None
        row.expires_at = new_expiry()
        row.save(update_fields=["invited_by", "expires_at"])
        row.team = team
        _send(row, actor=actor, address=address)
    return row


def revoke(invitation: Invitation, *, actor: Actor, address: str | None) -> None:
    """Its link ends at once. Raises the same as `resend`."""
    with lock_team(invitation.team, actor=actor, role=Role.ADMIN) as team:
        row = Invitation.objects.for_team(team).get(pk=invitation.pk)
        require_grant(actor, team, row.role)
        AuditEvent.objects.record(
            Action.INVITATION_REVOKED, target=str(row), actor=actor, team=team, address=address
        )
        row.delete()


def accept(link: links.Link, user: User, *, address: str | None) -> Membership:
    """The user joins the team, once. Somebody who is in it already keeps their role.

    Raises `links.DeadLink`, or `OtherAccount` if the invitation is for another address.
    """
    team = links.find(link).team
    with lock_team(team, actor=None, role=Role.VIEWER), acting_as(user, address):
        invitation = links.find(link)
        # Attack: the user's address changes, or they are deactivated, while this waits.
        current = User.objects.filter(pk=user.pk, is_active=True).first()
        if current is None or not is_for(invitation, current):
            raise OtherAccount
        if link.is_mailed:
            _mark_verified(user, invitation.email)
        AuditEvent.objects.record(
            Action.INVITATION_ACCEPTED,
            target=str(invitation),
            actor=user,
            team=invitation.team,
            address=address,
        )
        membership, _ = Membership.objects.get_or_create(
            team=invitation.team, user=user, defaults={"role": invitation.role}
        )
        invitation.delete()
    return membership


def is_for(invitation: Invitation, user: User) -> bool:
    return user.email.lower() == invitation.email


def _mark_verified(user: User, email: str) -> None:
    EmailAddress.objects.update_or_create(
        user=user, email=email, defaults={"verified": True, "primary": True}
    )


def _send(invitation: Invitation, *, actor: Actor, address: str | None) -> None:
    if isinstance(actor, User):
        _count(invitation)
    AuditEvent.objects.record(
        Action.INVITATION_SENT,
        target=str(invitation),
        actor=actor,
        team=invitation.team,
        address=address,
    )
    if actor is not None and is_mail_set_up():
        send_invitation(invitation)


def _count(invitation: Invitation) -> None:
    """Attack: an admin mails strangers through us, or one of them again and again."""
    slug, email = invitation.team.slug, invitation.email
    if not ratelimit.consume(HttpRequest(), action="invite_again", key=f"{slug} {email}"):
        raise TooManyInvitations(
            f"{email} was invited several times within an hour. Nobody was invited now; try again "
            "later."
        )
    if not ratelimit.consume(HttpRequest(), action="invite", key=slug):
        raise TooManyInvitations(
            "This team sent too many invitations within an hour. Nobody was invited now; try again "
            "later."
        )
