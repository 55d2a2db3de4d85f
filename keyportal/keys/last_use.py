"""When and from where a key was last used, with any of its secrets; and models it does not use."""

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
    """The row with time, address and user agent of the last use; None if the key was never used.

    After a rotation the last use may be that of a deleted secret, in its tombstone.
    """
    if secret := key.last_used_secret:
        return secret
    ended = Tombstone.objects.filter(team_slug=key.team.history_slug, public_id=key.public_id)
    return ended.exclude(last_used_at=None).order_by("-last_used_at").first()


def last_used_times(keys: Iterable[ApiKey]) -> dict[str, datetime]:
    """When each key was last used, by public id; keys that were never used are left out.

    `keys` come from `for_display`. One more query for all keys whose present secrets were not used,
    and none if there are no such keys.
    """
    secrets = {key.public_id: key.last_used_secret for key in keys}
    times = {public_id: secret.last_used_at for public_id, secret in secrets.items() if secret}
    unused = [public_id for public_id in secrets if public_id not in times]
    tombstones = Tombstone.objects.filter(public_id__in=unused).exclude(last_used_at=None)
    by_key = tombstones.order_by().values_list("public_id").annotate(last=Max("last_used_at"))
    return {public_id: time for public_id, time in (*times.items(), *by_key) if time}


MAX_KEYS = 1000  # Of the keys in use, only the newest are checked for unused models.


def unused_models(team: Team, keys: ApiKeyQuerySet, since: datetime) -> dict[str, list[str]]:
    """The models that each key may call but has not called since then, by public id.

    Keys that called nothing are left out. Three queries, for any number of keys.
    """
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
