"""A team whose leaked keys are deleted, for all tests of what comes after that."""

from collections.abc import Iterator

import pytest

from keyportal.teams.models import Team
from keyportal.teams.policy import NO_POLICY
from keyportal.teams.post import post_office

DELETING = NO_POLICY._replace(on_leak="delete")


@pytest.fixture
def deleting(team: Team) -> Iterator[None]:
    """The team's policy deletes a leaked key; and no mail comes into the next test."""
    Team.objects.update(policy=DELETING)
    yield
    assert post_office.finish(10)
