"""The demo: one team, one user, and one model that needs no model server."""

import secrets

from django.db import transaction

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.teams.models import Membership, Role, Team, UsedSlug, User

TEAM = "u-8105f7322477"
USER = "demo"


def create() -> str | None:
    """Create the demo, unless its team was ever there: then the rest was created or deleted before.

    Attack: after somebody has deleted the demo and its user, a start makes a new operator.
    Returns the new user's password, which is not stored, or None if no user was created.
    """
    with transaction.atomic():
        if UsedSlug.objects.filter(slug=TEAM).exists():
            return None
        team = Team.objects.create(slug=TEAM, name="Demo")
        _create_model(team)
        return _create_user(team)


def exists() -> bool:
    return User.objects.filter(username=USER, is_active=True).exists()


def _create_user(team: Team) -> str | None:
    if User.objects.filter(username=USER).exists():
        return None
    password = secrets.token_hex(10)
    # An operator, who adds model servers and invites people: a new installation has no other. Only
    # a new user is made one. Attack: somebody who has taken the name `demo` becomes an operator.
    user = User.objects.create_superuser(USER, password=password)
    Membership.objects.create(team=team, user=user, role=Role.OWNER)
    return password


def _create_model(team: Team) -> None:
    upstream, _ = Upstream.objects.get_or_create(
        name="loopback", team=None, defaults={"base_url": BUILT_IN_URL}
    )
    model, is_new = ServedModel.objects.get_or_create(name=f"{TEAM}/test", defaults={"team": team})
    if is_new:
        # The built-in model names itself in its answers as the request does: by the served name.
        Route.objects.create(model=model, upstream=upstream, upstream_model=model.name)
