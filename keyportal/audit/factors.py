"""Signal receivers that record second factors: added, removed, and wrong codes."""

from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authentication_failed, authenticator_used
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from django.http import HttpRequest

from keyportal.audit.models import Action, AuditEvent
from keyportal.audit.receivers import record_for_teams
from keyportal.audit.source import current_source
from keyportal.teams.models import User

WRONG_CODE = ": wrong code of the second factor"
LABELS = {
    Authenticator.Type.TOTP: "Authenticator app",
    Authenticator.Type.WEBAUTHN: "Passkey",
    Authenticator.Type.RECOVERY_CODES: "Recovery codes",
}


@receiver(post_save, sender=Authenticator)
def record_new_factor(instance: Authenticator, created: bool, **_: object) -> None:
    if created:
        _record(instance, "added")


@receiver(post_delete, sender=Authenticator)
def record_removed_factor(instance: Authenticator, **_: object) -> None:
    """Whoever removes it: the person, an operator, or a command."""
    _record(instance, "removed")


@receiver(authenticator_used)
def record_used_recovery_code(authenticator: Authenticator, **_: object) -> None:
    if authenticator.type == Authenticator.Type.RECOVERY_CODES:
        _record(authenticator, "one used")


@receiver(authentication_failed)
def record_wrong_code(request: HttpRequest, user: User, **_: object) -> None:
    """It says that somebody knows the password."""
    record_for_teams(Action.SIGN_IN_FAILED, request, user, suffix=WRONG_CODE)


def _record(authenticator: Authenticator, change: str) -> None:
    AuditEvent.objects.record_changes(
        Action.USER_CHANGED,
        target=f"User {authenticator.user.get_username()}"[:100],
        changes=[f"{LABELS[authenticator.type]}: {change}"],
        **current_source(),
    )
