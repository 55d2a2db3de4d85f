"""A team whose leaked keys are deleted, for all tests of what comes after that."""

import pytest

from keyportal.teams.models import Team
from keyportal.teams.policy import NO_POLICY

DELETING = NO_POLICY._replace(on_leak="delete")


@pytest.fixture
def deleting(team: Team) -> None:
    """The team's policy deletes a leaked key."""
    Team.objects.update(policy=DELETING)
