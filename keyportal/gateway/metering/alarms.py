"""Alarms: the row that limits them to one an hour, the audit event and the mail."""

from typing import NamedTuple

from django.db import transaction

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.gateway.metering.writer import ALIAS
from keyportal.keys.models import ApiKey
from keyportal.leaks import emails
from keyportal.teams.models import Team
from keyportal.usage.models import Alarm

SUBJECTS = {
    Action.KEY_MANY_NETWORKS: 'API key "{key}" was used from {number} networks',
    Action.KEY_REFUSED_OFTEN: 'API key "{key}" was refused {number} times',
    Action.KEY_USED_AFTER_DELETION: 'API key "{key}" was used with an ended secret',
}
EXPLANATIONS = {
    Action.KEY_MANY_NETWORKS: "The API key {key} was used from {number} networks within ten "
    "minutes.",
    Action.KEY_REFUSED_OFTEN: "{number} requests with the public id of the API key {key} were "
    "refused within ten minutes: they had a wrong secret, or the key was disabled or expired, or "
    "they came from outside its allowed networks.",
    Action.KEY_USED_AFTER_DELETION: "A secret of the API key {key} that is no longer valid was "
    "used again, and refused.",
}
ADVICE = {
    Action.KEY_MANY_NETWORKS: "If you don't use it like that, it has leaked: rotate it.",
    Action.KEY_REFUSED_OFTEN: "None of these requests succeeded. One of your programs may have an "
    "old key, or run outside the allowed networks. If not, somebody else is trying, and may have "
    "the key.",
    Action.KEY_USED_AFTER_DELETION: "One of your programs may still have it. If not, somebody else "
    "has it.",
}
TARGET_SUFFIXES = {
    Action.KEY_MANY_NETWORKS: ": {} networks",
    Action.KEY_REFUSED_OFTEN: ": {} requests",
    Action.KEY_USED_AFTER_DELETION: "",
}


class AlarmDetails(NamedTuple):
    action: Action
    team: Team
    key: ApiKey | Tombstone
    owner_id: int
    """The user may be deleted by now."""
    number: int

    @property
    def name(self) -> str:
        return f"{self.key.name} ({self.key.public_id})"

    def send(self) -> None:
        """Send mail to the owner, also of a deleted key; to the team's admins if the owner left."""
        context: dict[str, object] = {
            "subject": SUBJECTS[self.action].format(key=self.key.name, number=self.number),
            "explanation": EXPLANATIONS[self.action].format(key=self.name, number=self.number),
            "advice": ADVICE[self.action],
        }
        emails.send_alarm(self.team, self.owner_id, context)


def raise_once(public_id: str, action: Action, number: int) -> None:
    """Write the alarm, its audit event and its mail in one transaction.

    Does nothing if the same alarm was raised within the last hour, or if the team is deleted.
    """
    with transaction.atomic(using=ALIAS):
        details = _details(public_id, action, number)
        if details is None or not Alarm.objects.using(ALIAS).raise_once(public_id, action):
            return
        AuditEvent.objects.using(ALIAS).record(
            action,
            target=details.name + TARGET_SUFFIXES[action].format(number),
            key=details.key,
            team=details.team,
        )
        details.send()


def _details(public_id: str, action: Action, number: int) -> AlarmDetails | None:
    key = ApiKey.objects.using(ALIAS).select_related("team").filter(public_id=public_id).first()
    if key is not None:
        return AlarmDetails(action, key.team, key, key.owner_id, number)
    tombstone = Tombstone.objects.using(ALIAS).filter(public_id=public_id).order_by("-pk").first()
    team = tombstone and Team.objects.using(ALIAS).filter(history_slug=tombstone.team_slug).first()
    if not (tombstone and team):
        return None
    return AlarmDetails(action, team, tombstone, tombstone.owner_id, number)
