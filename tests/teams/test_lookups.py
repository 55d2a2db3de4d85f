"""Comparisons that ignore the case of letters beyond ASCII, on each database."""

from collections.abc import Callable

import pytest
from django.core.exceptions import ValidationError
from django.db import connection
from django.db.models import F
from django.db.models.functions import Collate
from django.test import Client

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.cases import own_case

Issue = Callable[..., tuple[ApiKey, str]]


def test_search_of_keys_ignores_case(bob: User, issue: Issue) -> None:
    cases: list[tuple[str, str]] = [
        ("Größe-Süd", "SÜD"),
        ("ÜBERSICHT", "übers"),
        ("ночь", "НОЧЬ"),
        ("Ωmega", "ωM"),
        ("100%_Ö\\x", "0%_ö\\X"),
        ("plain", "LAI"),
    ]
    for name, text in cases:
        with own_case(name, text):
            issue(bob, name)
            issue(bob, "other")
            assert [key.name for key in ApiKey.objects.matching(text)] == [name]
            assert not ApiKey.objects.matching(f"{text}!").exists()


def test_wildcards_are_ordinary_characters(bob: User, issue: Issue) -> None:
    for text in ("Ö%", "Ö_", "%ö", "_"):
        with own_case(text):
            issue(bob, "Öa")
            assert not ApiKey.objects.matching(text).exists()


def test_locale_c_ignores_case_as_well(db: None) -> None:
    """The column gets the collation that a database of this locale has."""
    Team.objects.create(name="Österreich")
    teams = Team.objects.annotate(text=F("name"))
    if connection.vendor == "postgresql":
        teams = Team.objects.annotate(text=Collate("name", "C"))
    assert teams.filter(text__icontains="öster").exists()
    assert teams.filter(text__iexact="ÖSTERREICH").exists()
    assert not teams.filter(text__iexact="öster").exists()


def test_columns_can_be_compared(db: None) -> None:
    Team.objects.create(name="ACME", slug="acme")
    Team.objects.create(name="Other", slug="different")
    assert [team.slug for team in Team.objects.filter(name__iexact=F("slug"))] == ["acme"]
    assert [team.slug for team in Team.objects.filter(name__icontains=F("slug"))] == ["acme"]


def test_people_sign_in_whatever_the_case(db: None, client: Client) -> None:
    for login in ("ünal", "ÜNAL", "Ünal", "U@ÜNAL.example"):
        with own_case(login):
            password = "correct horse battery staple"
            User.objects.create_user("Ünal", "u@ünal.example", password)
            answer = client.post("/accounts/login/", {"login": login, "password": password})
            assert answer.status_code == 302


def test_two_users_do_not_differ_in_case_alone(db: None) -> None:
    User.objects.create_user("Ünal", "u@ünal.example")
    with pytest.raises(ValidationError, match="this name already"):
        User(username="ÜNAL", password="x").full_clean()
    with pytest.raises(ValidationError, match="this e-mail address already"):
        User(username="other", email="U@ÜNAL.example", password="x").full_clean()
    User.objects.get().full_clean(exclude=["password"])
