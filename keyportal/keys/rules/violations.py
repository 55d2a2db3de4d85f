"""Which of a team's keys break its policy: as `policy.violations` judges one, but by the database.

Keys that were there before a stricter policy go on; they are listed, in a team of any size.
"""

import re
from datetime import timedelta
from itertools import islice

from django.db.models import Count, Q
from django.utils import timezone

from keyportal.keys.models import ApiKeyQuerySet
from keyportal.keys.rules.permissions import Endpoints, covers_models
from keyportal.keys.rules.policy import LEEWAY
from keyportal.teams.policy import Policy

# Few lists of models differ; and no query may have more values than this.
MAX_LISTS = 30_000
NO_KEYS = Q(pk__in=[])


def is_working() -> Q:
    """Keys that are refused anyway harm nobody, whatever they break."""
    return Q(disabled_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


def breaks_policy(policy: Policy, keys: ApiKeyQuerySet) -> Q:
    """The condition on `keys`; one query where the policy names models, and none otherwise."""
    return (
        _breaks_lifetime(policy)
        | _breaks_models(policy, keys)
        | _breaks_endpoints(policy)
        | _breaks_name(policy)
    )


def owners_over_limit(policy: Policy, keys: ApiKeyQuerySet) -> list[tuple[str, int]]:
    """Owners of more keys than the policy lets a member make now, by name, and how many."""
    if policy.keys_per_member is None:
        return []
    counted = keys.order_by().values_list("owner__username").annotate(number=Count("pk"))
    return [*counted.filter(number__gt=policy.keys_per_member).order_by("owner__username")]


def _breaks_lifetime(policy: Policy) -> Q:
    if policy.longest_days is None:
        return Q(expires_at=None) if policy.must_expire else NO_KEYS
    latest = timezone.now() + timedelta(days=policy.longest_days) + LEEWAY
    return Q(expires_at=None) | Q(expires_at__gt=latest)


def _breaks_models(policy: Policy, keys: ApiKeyQuerySet) -> Q:
    if not policy.models:
        return NO_KEYS
    lists = keys.order_by().values_list("allowed_models", flat=True).distinct().iterator()
    broken = (one for one in lists if not covers_models(policy.models, one))
    return Q(allowed_models__in=[*islice(broken, MAX_LISTS)])


def _breaks_endpoints(policy: Policy) -> Q:
    opened = [Endpoints(one) for one in policy.endpoints]
    if not opened:
        return NO_KEYS
    beyond = [one for one in Endpoints if not any(each.covers(one) for each in opened)]
    return Q(endpoints__in=beyond)


def _breaks_name(policy: Policy) -> Q:
    if not policy.name_pattern:
        return NO_KEYS
    parts = [re.escape(part) for part in re.split(r"\*+", policy.name_pattern)]
    return ~Q(name__regex=f"^{'.*'.join(parts)}$")
