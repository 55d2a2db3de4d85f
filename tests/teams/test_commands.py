"""The commands for users, teams and memberships."""

from collections.abc import Callable
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.limits import UNLIMITED, Limits
from keyportal.teams.management.commands import setteam
from keyportal.teams.management.operator import get_team
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.cases import own_case

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


@pytest.fixture
def run() -> Callable[..., str]:
    """Run a command and return what it printed on standard output."""

    def run(*arguments: str) -> str:
        out = StringIO()
        call_command(*arguments, stdout=out, stderr=StringIO())
        return out.getvalue()

    return run


def test_createteam_prints_the_slug_alone(run: Callable[..., str]) -> None:
    slug = run("createteam", "Acme").strip()
    assert Team.objects.get(slug=slug).name == "Acme"


def test_createteam_takes_slug_limit_and_owner(run: Callable[..., str], charlie: User) -> None:
    run("createteam", "Acme", "--slug=acme", "--max-keys=3", "--owner=charlie")
    team = Team.objects.get(slug="acme")
    assert team.max_keys == 3
    assert Membership.objects.get(team=team, user=charlie).role == Role.OWNER


def test_createteam_sets_limits(run: Callable[..., str]) -> None:
    slug = run("createteam", "Acme", "--requests-per-minute=60", "--tokens-per-day=5000").strip()
    expected = Limits(requests_per_minute=60, tokens_per_day=5000)
    assert Team.objects.get(slug=slug).limits == expected


def test_createteam_refuses_and_creates_nothing(run: Callable[..., str], team: Team) -> None:
    cases: list[tuple[list[str], str]] = [
        (["--requests-per-day=-1"], "Requests per day: must be a whole number"),
        (["--requests-per-day=many"], "invalid number or none value: 'many'"),
        (["--slug=Not A Slug"], "lower-case letters"),
        (["--slug=u-8105f7322477"], "never used again"),
        (["--max-keys=-1"], "greater than or equal to 0"),
        (["--owner=nobody"], "no user named nobody"),
    ]
    for arguments, message in cases:
        with own_case(arguments, message):
            with pytest.raises(CommandError, match=message):
                run("createteam", "Other", *arguments)
            assert list(Team.objects.all()) == [team]


def test_createteam_takes_no_slug_of_a_deleted_team(run: Callable[..., str]) -> None:
    run("createteam", "Acme", "--slug=acme")
    Team.objects.get(slug="acme").delete()
    with pytest.raises(CommandError, match="never used again"):
        run("createteam", "Acme", "--slug=acme")


def test_setteam_changes_only_what_is_given(run: Callable[..., str], team: Team) -> None:
    assert "at most 5 keys, active" in run("setteam", team.slug, "--max-keys=5")
    assert "Acme, at most 5 keys, inactive" in run("setteam", team.slug, "--no-active")
    assert "Apex" in run("setteam", team.slug, "--name=Apex", "--active")
    team.refresh_from_db()
    assert (team.name, team.max_keys, team.is_active) == ("Apex", 5, True)


def test_setteam_is_recorded_in_the_audit_of_the_team(run: Callable[..., str], team: Team) -> None:
    Team.objects.update(limits=Limits(tokens_per_day=5))
    run("setteam", team.slug, "--max-keys=5", "--name=Apex", "--tokens-per-day=7")
    run("setteam", team.slug, "--max-keys=5")  # No change.
    rows = AuditEvent.objects.for_team(team).filter(action=Action.TEAM_CHANGED).order_by("pk")
    assert [(row.actor, row.address, row.target) for row in rows] == [
        ("", None, "Team: Max keys: 20 → 5, Name: Acme → Apex"),
        ("", None, "Limits of the team: Tokens per day: 5 → 7"),
    ]


def test_setteam_changes_single_limits(run: Callable[..., str], team: Team) -> None:
    printed = run("setteam", team.slug, "--requests-per-day=9", "--parallel-requests=2")
    assert printed.endswith("active, requests per day: 9, parallel requests: 2\n")
    run("setteam", team.slug, "--requests-per-day=none", "--tokens-per-month=7")
    team.refresh_from_db()
    assert team.limits == Limits(tokens_per_month=7, parallel_requests=2)
    run("setteam", team.slug, "--tokens-per-month=0", "--parallel-requests=0")
    team.refresh_from_db()
    assert team.limits == UNLIMITED


def test_setteam_keeps_limits_that_are_set_concurrently(
    run: Callable[..., str], team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get_team_before_change(slug: str) -> Team:
        stale = get_team(slug)
        Team.objects.update(limits=Limits(tokens_per_day=5), name="Apex")
        return stale

    monkeypatch.setattr(f"{setteam.__name__}.get_team", get_team_before_change)
    printed = run("setteam", team.slug, "--requests-per-day=9")
    assert "Apex, at most 20 keys, active, requests per day: 9, tokens per day: 5" in printed
    team.refresh_from_db()
    assert team.limits == Limits(requests_per_day=9, tokens_per_day=5)


def test_setteam_refuses_invalid_arguments(run: Callable[..., str], team: Team) -> None:
    with pytest.raises(CommandError, match="Nothing to change"):
        run("setteam", team.slug)
    with pytest.raises(CommandError, match="max_keys"):
        run("setteam", team.slug, "--max-keys=-1")
    with pytest.raises(CommandError, match="no team with the slug nowhere"):
        run("setteam", "nowhere", "--max-keys=1")


def test_listteams_prints_one_line_per_team(
    run: Callable[..., str], alice: User, charlie: User
) -> None:
    Team.objects.filter(name="Acme").update(is_active=False)
    assert run("listteams").splitlines() == [
        "u-0000000000cc\t1\t20\tactive\tCharlie's",
        "u-8105f7322477\t1\t20\tinactive\tAcme",
    ]


def test_adduser_prints_a_password_that_works(run: Callable[..., str]) -> None:
    password = run("adduser", "erin", "--email=erin@example.com").strip()
    user = User.objects.get(username="erin")
    assert user.check_password(password)
    assert not user.is_staff
    assert not user.is_superuser


def test_adduser_takes_the_password_from_the_environment(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERINS", "mellon-mellon-mellon")
    assert run("adduser", "erin", "--password-env=ERINS", "--superuser") == ""
    user = User.objects.get(username="erin")
    assert user.check_password("mellon-mellon-mellon")
    assert user.is_staff
    assert user.is_superuser


def test_adduser_refuses_and_creates_no_user(
    run: Callable[..., str], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases: list[tuple[list[str], str]] = [
        (["alice"], "username"),
        (["erin", "--email=Alice@Example.com"], "e-mail address"),
        (["erin", "--email=not-an-address"], "email"),
        (["not a name"], "username"),
        (["erin", "--password-env=UNSET"], "UNSET is not set"),
        (["erin", "--password-env=SHORT"], "too short"),
    ]
    for arguments, message in cases:
        with own_case(arguments, message):
            monkeypatch.setenv("SHORT", "xyzzy")
            with pytest.raises(CommandError, match=message):
                run("adduser", *arguments)
            assert list(User.objects.all()) == [alice]


def test_a_new_user_can_sign_in_with_the_printed_password(run: Callable[..., str]) -> None:
    password = run("adduser", "erin").strip()
    assert authenticate(username="erin", password=password) == User.objects.get(username="erin")


def test_members_are_added_changed_and_removed(
    run: Callable[..., str], team: Team, charlie: User
) -> None:
    mine = Membership.objects.filter(team=team, user=charlie)
    run("addmember", team.slug, "charlie")
    assert mine.get().role == Role.MEMBER
    run("setrole", team.slug, "charlie", "admin")
    assert mine.get().role == Role.ADMIN
    run("removemember", team.slug, "charlie")
    assert not mine.exists()


def test_membership_commands_refuse(run: Callable[..., str], alice: User, charlie: User) -> None:
    cases: list[tuple[list[str], str]] = [
        (["addmember", "u-8105f7322477", "alice"], "in the team already"),
        (["addmember", "u-8105f7322477", "charlie", "--role=king"], "invalid choice"),
        (["addmember", "nowhere", "charlie"], "no team with the slug nowhere"),
        (["addmember", "u-8105f7322477", "nobody"], "no user named nobody"),
        (["setrole", "u-8105f7322477", "alice", "king"], "invalid choice"),
        (["setrole", "u-8105f7322477", "charlie", "admin"], "charlie is not in the team"),
        (["removemember", "u-8105f7322477", "charlie"], "charlie is not in the team"),
    ]
    for arguments, message in cases:
        with own_case(arguments, message):
            with pytest.raises(CommandError, match=message):
                run(*arguments)
            assert Membership.objects.get(user=alice).role == Role.OWNER
            assert Membership.objects.get(user=charlie).team.name == "Charlie's"
