"""Which of a team's keys break its policy: as `policy.breaches` judges one, but by the database.

Keys that were there before a stricter policy go on; they are listed, in a team of any size.
"""

import re
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from keyportal.keys.models import ApiKeyQuerySet
from keyportal.keys.permissions import Endpoints, covers_models
from keyportal.keys.policy import LEEWAY
from keyportal.teams.policy import Policy

# Few lists of models differ, and those of more keys than this would make a slow query.
MOST_LISTS = 1000
NONE = Q(pk__in=[])


def working() -> Q:
    """Keys that are refused anyway harm nobody, whatever they break."""
    return Q(disabled_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


def breaking(policy: Policy, keys: ApiKeyQuerySet) -> Q:
    """The condition on `keys`; one query where the policy names models, and none otherwise."""
    return (
        _of_lifetime(policy) | _of_models(policy, keys) | _of_endpoints(policy) | _of_name(policy)
    )


def _of_lifetime(policy: Policy) -> Q:
    if policy.longest_days is None:
        return Q(expires_at=None) if policy.must_expire else NONE
    latest = timezone.now() + timedelta(days=policy.longest_days) + LEEWAY
    return Q(expires_at=None) | Q(expires_at__gt=latest)


def _of_models(policy: Policy, keys: ApiKeyQuerySet) -> Q:
    if not policy.models:
        return NONE
    lists = keys.order_by().values_list("allowed_models", flat=True).distinct()[:MOST_LISTS]
    return Q(allowed_models__in=[one for one in lists if not covers_models(policy.models, one)])


def _of_endpoints(policy: Policy) -> Q:
    opened = [Endpoints(one) for one in policy.endpoints]
    if not opened:
        return NONE
    beyond = [one for one in Endpoints if not any(each.covers(one) for each in opened)]
    return Q(endpoints__in=beyond)


def _of_name(policy: Policy) -> Q:
    if not policy.name_pattern:
        return NONE
    parts = [re.escape(part) for part in re.split(r"\*+", policy.name_pattern)]
    return ~Q(name__regex=f"^{'.*'.join(parts)}$")
