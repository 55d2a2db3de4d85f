"""Keys that may call more models than they do."""

from collections import defaultdict
from datetime import datetime
from functools import lru_cache

from django.db.models import Exists, OuterRef

from keyportal.activity.usage import UsageDay
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKeyQuerySet, Secret
from keyportal.keys.permissions import NamePatterns
from keyportal.teams.models import Team

LOOKED_AT = 1000  # Keys; a team with more is told of those that were made last.


def unused_models(team: Team, keys: ApiKeyQuerySet, since: datetime) -> dict[str, list[str]]:
    """By public id, what a key may call and has not called since then; keys that call nothing
    have nothing here. Three queries, whatever the number of keys."""
    names = [*ServedModel.objects.callable_by(team).values_list("name", flat=True)]
    used = Secret.objects.filter(key=OuterRef("pk"), last_used_at__gte=since)
    found = keys.filter(Exists(used)).order_by("-pk").values_list("public_id", "allowed_models")
    allowed = dict(found[:LOOKED_AT])
    called = _called(team, [*allowed], since)

    @lru_cache(LOOKED_AT)
    def matching(patterns: tuple[str, ...]) -> list[str]:
        matcher = NamePatterns(patterns)
        return [name for name in names if not patterns or name in matcher]

    return {
        public_id: unused
        for public_id, patterns in allowed.items()
        if called[public_id]
        and (unused := [n for n in matching(tuple(patterns)) if n not in called[public_id]])
    }


def _called(team: Team, public_ids: list[str], since: datetime) -> dict[str, set[str]]:
    usage = UsageDay.objects.of(team).filter(start__gte=since, public_id__in=public_ids)
    called: dict[str, set[str]] = defaultdict(set)
    for public_id, model in usage.order_by().values_list("public_id", "model").distinct():
        if model:
            called[public_id].add(model)
    return called
