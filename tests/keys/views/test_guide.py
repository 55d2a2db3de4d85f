"""The guide: how to create, use and manage keys."""

from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.catalog.models import ServedModel
from keyportal.teams.models import User

pytestmark = pytest.mark.any_database

GUIDE = "/teams/u-8105f7322477/guide/"
SignIn = Callable[[User], Client]


def test_viewer_can_read_the_guide(sign_in: SignIn, vera: User, model: ServedModel) -> None:
    response = sign_in(vera).get(GUIDE)
    text = response.content.decode()
    assert response.status_code == 200
    for heading in (
        "What is an API key?",
        "Security tips",
        "Creating an API key",
        "Viewing API keys",
        "Deleting an API key",
    ):
        assert f">{heading}</h2>" in text
    for note in ("Key limit", "Leaks", "Permissions", "Rotation"):
        assert f"<dt>{note}</dt>" in text
    assert "Authorization: Bearer {API_KEY}" in text
    assert "curl 'http://127.0.0.1:8000/v1/chat/completions'" in text
    assert '"u-8105f7322477/test"' in text
    assert "uses 0 of 20" in text


def test_guide_needs_no_htmx(sign_in: SignIn, vera: User) -> None:
    with_htmx = sign_in(vera).get(GUIDE, headers={"HX-Request": "true"})
    assert with_htmx.content.lstrip().startswith(b"<!doctype html>")
