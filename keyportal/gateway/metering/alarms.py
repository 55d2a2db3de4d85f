"""An alarm: its row, which is there once an hour, its row in the audit, and its mail."""

from typing import NamedTuple

from django.db import transaction

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.gateway.metering.writer import ALIAS
from keyportal.keys.models import ApiKey
from keyportal.leaks import emails
from keyportal.teams.models import Team
from keyportal.usage.models import Alarm

TOLD = {
    Action.KEY_MANY_NETWORKS: "The API key {key} was used from {number} networks within ten "
    "minutes.",
    Action.KEY_REFUSED_OFTEN: "{number} requests that bear the public id of the API key {key} were "
    "refused within ten minutes: with a wrong secret, or with the right one while the key is "
    "disabled or expired, or from an address where it may not be used.",
    Action.KEY_USED_AFTER_DELETION: "A secret of the API key {key} that has ended was used again, "
    "and refused.",
}
ADVICE = {
    Action.KEY_MANY_NETWORKS: "If that is not how you use it, it has leaked: rotate it.",
    Action.KEY_REFUSED_OFTEN: "Nobody got in this way. A program of yours may have an old key, or "
    "run where the key may not be used; if none does, somebody else is trying, and may have the "
    "key.",
    Action.KEY_USED_AFTER_DELETION: "A program of yours may still have it. If none has, somebody "
    "else does.",
}
NUMBERED = {
    Action.KEY_MANY_NETWORKS: ": {} networks",
    Action.KEY_REFUSED_OFTEN: ": {} requests",
    Action.KEY_USED_AFTER_DELETION: "",
}


class Raised(NamedTuple):
    action: Action
    team: Team
    key: ApiKey | Tombstone
    owner_id: int
    """Of a user who may be deleted now."""
    number: int

    @property
    def name(self) -> str:
        return f"{self.key.name} ({self.key.public_id})"

    def send(self) -> None:
        """To the owner, also of a deleted key; to the team's admins where the owner has left."""
        context: dict[str, object] = {
            "subject": f"{self.action.label}: {self.name}",
            "told": TOLD[self.action].format(key=self.name, number=self.number),
            "advice": ADVICE[self.action],
        }
        emails.send_alarm(self.team, self.owner_id, context)


def raise_once(public_id: str, action: Action, number: int) -> None:
    """Write all three in one transaction; nothing where it was raised within the hour, or where
    the team is deleted.
    """
    with transaction.atomic(using=ALIAS):
        raised = _raised(public_id, action, number)
        if raised is None or not Alarm.objects.using(ALIAS).raise_once(public_id, action):
            return
        AuditEvent.objects.using(ALIAS).record(
            action,
            target=raised.name + NUMBERED[action].format(number),
            key=raised.key,
            team=raised.team,
        )
        raised.send()


def _raised(public_id: str, action: Action, number: int) -> Raised | None:
    key = ApiKey.objects.using(ALIAS).select_related("team").filter(public_id=public_id).first()
    if key is not None:
        return Raised(action, key.team, key, key.owner_id, number)
    stone = Tombstone.objects.using(ALIAS).filter(public_id=public_id).order_by("-pk").first()
    team = stone and Team.objects.using(ALIAS).filter(slug=stone.team_slug).first()
    if not (stone and team):
        return None
    return Raised(action, team, stone, stone.owner_id, number)
