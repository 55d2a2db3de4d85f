"""When, whence and by what a key was used last, whichever of its secrets that was."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from django.db.models import Exists, Max, OuterRef

from keyportal.audit.models import Tombstone
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey, ApiKeyQuerySet, Secret
from keyportal.keys.rules.permissions import NamePatterns
from keyportal.teams.models import Team
from keyportal.usage.models import UsageDay


def last_use(key: ApiKey) -> Secret | Tombstone | None:
    """Where its time, address and agent are noted; None if it was never used.

    A key whose secret was just rotated was used all the same: by one that is gone.
    """
    if used := key.last_used_secret:
        return used
    ended = Tombstone.objects.filter(team_slug=key.team.slug, public_id=key.public_id)
    return ended.exclude(last_used_at=None).order_by("-last_used_at").first()


def last_used_times(keys: Iterable[ApiKey]) -> dict[str, datetime]:
    """When each of a team's keys was used last, by public id; those that never were are not there.

    `keys` come from `for_display`. One query more for those whose secrets were not used, however
    many they are, and none where all were.
    """
    living = {key.public_id: key.last_used_secret for key in keys}
    used = {public_id: one.last_used_at for public_id, one in living.items() if one}
    unused = [public_id for public_id in living if public_id not in used]
    ended = Tombstone.objects.filter(public_id__in=unused).exclude(last_used_at=None)
    by_key = ended.order_by().values_list("public_id").annotate(last=Max("last_used_at"))
    return {public_id: at for public_id, at in (*used.items(), *by_key) if at}


MAX_KEYS = 1000  # Keys; a team with more is told of those that were made last.


def unused_models(team: Team, keys: ApiKeyQuerySet, since: datetime) -> dict[str, list[str]]:
    """By public id, what a key may call and has not called since then; keys that call nothing
    have nothing here. Three queries, whatever the number of keys."""
    names = [*ServedModel.objects.callable_by(team).values_list("name", flat=True)]
    used = Secret.objects.filter(key=OuterRef("pk"), last_used_at__gte=since)
    found = keys.filter(Exists(used)).order_by("-pk").values_list("public_id", "allowed_models")
    allowed = dict(found[:MAX_KEYS])
    called = _called_models(team, [*allowed], since)

    @lru_cache(MAX_KEYS)
    def matching(patterns: tuple[str, ...]) -> list[str]:
        matcher = NamePatterns(patterns)
        return [name for name in names if not patterns or name in matcher]

    return {
        public_id: unused
        for public_id, patterns in allowed.items()
        if called[public_id]
        and (unused := [n for n in matching(tuple(patterns)) if n not in called[public_id]])
    }


def _called_models(team: Team, public_ids: list[str], since: datetime) -> dict[str, set[str]]:
    usage = UsageDay.objects.for_team(team).filter(start__gte=since, public_id__in=public_ids)
    called: dict[str, set[str]] = defaultdict(set)
    for public_id, model in usage.order_by().values_list("public_id", "model").distinct():
        if model:
            called[public_id].add(model)
    return called
