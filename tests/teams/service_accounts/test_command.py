"""`manage.py serviceaccount`."""

import pytest
from django.core.management import CommandError

from keyportal.teams.models import Team, User
from tests.support.cases import own_case
from tests.support.commands import run

pytestmark = pytest.mark.any_database


def test_creates_lists_changes_and_deletes(team: Team) -> None:
    create = ("--create", "ci", "--contact", "ci@example.com")
    assert run("serviceaccount", team.slug, *create)[0] == ["ci@u-8105f7322477"]
    run("serviceaccount", team.slug, "--change", "ci", "--contact", "ops@example.com")
    listed, _ = run("serviceaccount", team.slug)
    assert listed == ["ci@u-8105f7322477\t0\tops@example.com"]
    run("serviceaccount", team.slug, "--delete", "ci@u-8105f7322477")
    assert not User.objects.exists()


def test_mistakes(team: Team, alice: User) -> None:
    cases: list[tuple[tuple[str, ...], str]] = [
        (("--create", "ci"), "need --contact"),
        (("--delete", "ci", "--contact", "a@example.com"), "need --contact"),
        (("--create", "C I", "--contact", "a@example.com"), "lower-case"),
        (("--create", "ci", "--contact", "nobody"), "valid email address"),
        (("--change", "alice", "--contact", "a@example.com"), "no service account named alice"),
        (("--delete", "nobody"), "no service account named nobody"),
    ]
    for options, message in cases:
        with own_case(options, message):
            with pytest.raises(CommandError, match=message):
                run("serviceaccount", team.slug, *options)
            assert User.objects.get() == alice
