"""Constraints on users, teams and memberships."""

import re

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from pytest_django import Settings

from keyportal.teams.models import Membership, Role, Team, User, new_slug


def test_a_slug_is_u_and_twelve_hexadecimal_digits() -> None:
    assert re.fullmatch(r"u-[0-9a-f]{12}", new_slug())
    assert new_slug() != new_slug()


@pytest.mark.parametrize("slug", ["acme", "u-8105f7322477", "a", "7"])
def test_valid_slugs(slug: str) -> None:
    Team(slug=slug).clean_fields(exclude=["name"])


@pytest.mark.parametrize("slug", ["", "Acme", "a_b", "-a", "a-", "a b", "a/b", "ä", "a\n"])
def test_invalid_slugs_are_refused(slug: str) -> None:
    with pytest.raises(ValidationError):
        Team(slug=slug).clean_fields(exclude=["name"])


def test_key_limit_of_a_new_team_comes_from_the_settings(db: None, settings: Settings) -> None:
    settings.MAX_KEYS = 3
    assert Team.objects.create(name="Small").max_keys == 3


@pytest.mark.parametrize("limit", [-1, 1_000_001])
def test_key_limit_has_bounds(limit: int) -> None:
    with pytest.raises(ValidationError):
        Team(name="Acme", max_keys=limit).clean_fields()


def test_a_slug_belongs_to_one_team(team: Team) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Team.objects.create(name="Twin", slug=team.slug)


def test_the_slug_of_a_deleted_team_is_never_used_again(other_team: Team) -> None:
    """Attack: a new team with the slug reads the audit, usage and receipts of the old one."""
    slug = other_team.slug
    Team.objects.filter(pk=other_team.pk).delete()
    with pytest.raises(ValidationError, match="never used again"):
        Team(name="Heir", slug=slug).full_clean()
    with pytest.raises(IntegrityError), transaction.atomic():
        Team.objects.create(name="Heir", slug=slug)
    assert not Team.objects.filter(slug=slug).exists()


def test_a_slug_is_free_when_creating_the_team_fails(db: None) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Team.objects.create(name="Acme", slug="acme", max_keys=-1)
    assert Team.objects.create(name="Acme", slug="acme").slug == "acme"


def test_a_user_is_in_a_team_once(team: Team, bob: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.create(team=team, user=bob, role=Role.OWNER)


@pytest.mark.parametrize("role", ["", "god", "Owner"])
def test_an_unknown_role_is_refused(team: Team, bob: User, role: str) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.filter(user=bob).update(role=role)


def test_an_address_belongs_to_one_user_in_any_case(bob: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create_user("bobby", "BOB@Example.com")
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.bulk_create([User(username="bobby", email="BOB@Example.com")])


def test_many_users_may_have_no_address(db: None) -> None:
    User.objects.create_user("one")
    User.objects.create_user("two")
    assert User.objects.filter(email="").count() == 2


def test_a_name_belongs_to_one_user_in_any_case(bob: User) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create_user("Bob")


def test_an_address_is_kept_in_lower_case(db: None) -> None:
    assert User.objects.create_user("eve", " Eve.E@Example.COM").email == "eve.e@example.com"


def test_roles_are_ordered() -> None:
    assert [role.rank for role in (Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER)] == [
        0,
        1,
        2,
        3,
    ]


def test_teams_of_a_user_are_ordered_by_name(team: Team, other_team: Team, bob: User) -> None:
    Membership.objects.create(team=other_team, user=bob, role=Role.VIEWER)
    Team.objects.create(name="Nobody's")
    assert list(Team.objects.for_user(bob)) == [team, other_team]
