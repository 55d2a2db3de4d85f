"""How many letters somebody can have us write to a team by reporting keys: so many an hour.

A report is believed from whoever holds a key, and who makes keys holds as many as they like. So
each person who can make them has a bound of their own: with their own keys they use up theirs, and
the letter about somebody else's still arrives.
"""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.activity.sightings import PAUSE
from keyportal.teams.models import Membership, Role, Team

if TYPE_CHECKING:
    from keyportal.keys.models import ApiKey

# More than a person's leaks are reported one by one, and few enough to be no flood.
MOST = 5
# Each lets somebody report the key. Who gets one that another has shown a secret of is not to
# answer for what that other does with it, so handing it over counts too.
_READYING = Q(action__in=(Action.KEY_CREATED, Action.KEY_ROTATED, Action.KEY_HANDED_OVER))
# Without an actor, it followed from the end of an old secret.
_READYING |= Q(action=Action.KEY_ENABLED) & ~Q(actor="")


class Allowed(NamedTuple):
    """A letter may be written; if this person's letters are counted, with what it has to say."""

    person: str = ""
    last_until: datetime | None = None
    """None: more may follow before the hour is over."""
    untold: int = 0
    untold_since: datetime | None = None
    """So many of their keys were ended since without a letter."""


class LetterCountQuerySet(models.QuerySet["LetterCount"]):
    def allow(self, team: Team, person: str) -> Allowed | None:
        """Count one more letter; None, and it is counted as untold, where the hour's are used up.

        Those who come at one time wait for each other.
        """
        now = timezone.now()
        with transaction.atomic():
            rows = self.select_for_update()
            count, _ = rows.get_or_create(team=team, person=person, defaults={"since": now})
            before = Allowed(person, untold=count.untold, untold_since=count.since)
            if is_over := count.since <= now - PAUSE:
                count.since, count.letters, count.untold = now, 0, 0
            is_allowed = count.letters < MOST
            count.letters += is_allowed
            count.untold += not is_allowed
            count.save(update_fields=["since", "letters", "untold"])
        if not is_allowed:
            return None
        last_until = count.since + PAUSE if count.letters == MOST else None
        return (before if is_over else Allowed(person))._replace(last_until=last_until)


class LetterCount(models.Model):
    """One row for each team and person of whose keys a stranger's report has told there."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    person = models.CharField(max_length=150, help_text="A user name.")
    since = models.DateTimeField(help_text="When the hour began.")
    letters = models.PositiveIntegerField(default=0, help_text="Reports that were told by mail.")
    untold = models.PositiveIntegerField(default=0, help_text="Keys that were ended without.")

    objects = LetterCountQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team", "person"], name="lettercount_unique")
        ]

    def __str__(self) -> str:
        return f"{self.letters} of {self.person}"


def answerable(key: "ApiKey") -> str:
    """The user name of whoever could have readied the key for the report that has ended it.

    That is who last made, rotated, enabled or handed it over: its owner may have been given it a
    moment ago, for no other end than to use up their letters. What an admin or operator readied,
    who could stop everybody's letters anyway, its owner answers for.
    """
    history = AuditEvent.objects.of(key.team).about(key.public_id)
    row = history.filter(_READYING).first()
    person = row.actor if row else ""
    theirs = Membership.objects.of(key.team).filter(user__username=person).first()
    is_trusted = not person or (theirs is not None and theirs.is_at_least(Role.ADMIN))
    return str(key.owner.get_username()) if is_trusted else person
