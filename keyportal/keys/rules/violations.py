"""Find all keys of a team that break its policy, with the same rules as `policy.violations`, but in
the database.

Keys that are older than a stricter policy still work; a page lists them, in a team of any size.
"""

import re
from datetime import timedelta
from itertools import islice

from django.db.models import Count, Q
from django.db.models.functions import Now

from keyportal.keys.models import ApiKeyQuerySet
from keyportal.keys.rules.permissions import Endpoints, covers_models
from keyportal.keys.rules.policy import LEEWAY
from keyportal.teams.policy import Policy

# Most keys share their list of models. A query can have no more parameters than this.
MAX_LISTS = 30_000
NO_KEYS = Q(pk__in=[])


def is_working() -> Q:
    """A condition on keys: enabled and not expired. Refused keys can break the policy unnoticed."""
    return Q(disabled_at=None) & (Q(expires_at=None) | Q(expires_at__gt=Now()))


def breaks_policy(policy: Policy, keys: ApiKeyQuerySet) -> Q:
    """A condition on `keys`. Costs one query if the policy restricts models, otherwise none."""
    return (
        _breaks_lifetime(policy)
        | _breaks_models(policy, keys)
        | _breaks_endpoints(policy)
        | _breaks_name(policy)
        | _breaks_owner(policy)
    )


def owners_over_limit(policy: Policy, keys: ApiKeyQuerySet) -> list[tuple[str, int]]:
    """Names of the owners with more keys than the policy allows, and their number of keys."""
    if policy.max_keys_per_member is None:
        return []
    counted = keys.order_by().values_list("owner__username").annotate(number=Count("pk"))
    return [*counted.filter(number__gt=policy.max_keys_per_member).order_by("owner__username")]


def _breaks_lifetime(policy: Policy) -> Q:
    if policy.max_lifetime_days is None:
        return Q(expires_at=None) if policy.must_expire else NO_KEYS
    latest = Now() + timedelta(days=policy.max_lifetime_days) + LEEWAY
    return Q(expires_at=None) | Q(expires_at__gt=latest)


def _breaks_models(policy: Policy, keys: ApiKeyQuerySet) -> Q:
    if not policy.models:
        return NO_KEYS
    lists = keys.order_by().values_list("allowed_models", flat=True).distinct().iterator()
    too_wide = (models for models in lists if not covers_models(policy.models, models))
    return Q(allowed_models__in=[*islice(too_wide, MAX_LISTS)])


def _breaks_endpoints(policy: Policy) -> Q:
    allowed = [Endpoints(value) for value in policy.endpoints]
    if not allowed:
        return NO_KEYS
    forbidden = [value for value in Endpoints if not any(other.covers(value) for other in allowed)]
    return Q(endpoints__in=forbidden)


def _breaks_name(policy: Policy) -> Q:
    if not policy.name_pattern:
        return NO_KEYS
    parts = [re.escape(part) for part in re.split(r"\*+", policy.name_pattern)]
    return ~Q(name__regex=f"^{'.*'.join(parts)}$")


def _breaks_owner(policy: Policy) -> Q:
    return Q(owner__service_team=None) if policy.service_accounts_only else NO_KEYS
