"""Lets people who are invited have an account, also where sign-in makes none for others."""

from django.db.models.functions import Now
from django.dispatch import receiver

from keyportal.people.models import Invitation
from keyportal.teams.signals import account_wanted


@receiver(account_wanted)
def is_invited(address: str, **_: object) -> bool:
    waiting = Invitation.objects.filter(email=address, expires_at__gt=Now(), team__is_active=True)
    return any(invitation.is_backed() for invitation in waiting)
