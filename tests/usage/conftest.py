"""Rows of usage as the gateway's meter writes them."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.utils import timezone

from keyportal.teams.models import Team
from keyportal.usage.models import Usage
from keyportal.usage.reports.periods import Step


@pytest.fixture
def used(team: Team) -> Callable[..., Usage]:
    """A row of usage: `used(Step.DAY, "AbCd1234", ago=2, requests=5)`, of `team` by default."""

    def used(
        step: Step,
        public_id: str,
        *,
        ago: int = 0,
        owner_id: int = 7,
        model: str = "public/small",
        **fields: Any,
    ) -> Usage:
        start: datetime = step.floor(timezone.now()) - ago * step.length
        row = {"team_slug": team.slug, "requests": 1} | fields
        return step.table.objects.create(
            start=start, public_id=public_id, owner_id=owner_id, model=model, **row
        )

    return used
