"""What is set for a team as a whole: its policy, its roof, the limits of its new keys."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction

from keyportal.teams.models import Team


@contextmanager
def locked_rules(team: Team) -> Iterator[Team]:
    """The team as it is now, in a transaction in which nobody else changes its rules, nor makes
    anything that they bound.
    """
    with transaction.atomic():
        # NO KEY: rows that refer to the team may be written meanwhile.
        yield Team.objects.select_for_update(no_key=True).get(pk=team.pk)
