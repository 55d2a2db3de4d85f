from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.management.commands import setpolicy as setpolicy_command
from keyportal.teams.management.operator import get_team
from keyportal.teams.models import Team
from keyportal.teams.policy import NO_POLICY, Policy

pytestmark = pytest.mark.any_database


def setpolicy(*arguments: str) -> str:
    out = StringIO()
    call_command("setpolicy", "u-8105f7322477", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_given_rules_are_set_and_others_stay(team: Team) -> None:
    Team.objects.update(policy=Policy(rotation_days=30, must_expire=True, models=("a", "b/*")))
    printed = setpolicy(
        "--max-lifetime-days=90", "--endpoints=chat,read", "--min-creator-role=admin"
    )
    team.refresh_from_db()
    assert team.policy == Policy(
        max_lifetime_days=90,
        must_expire=True,
        models=("a", "b/*"),
        endpoints=("chat", "read"),
        min_creator_role="admin",
        rotation_days=30,
    )
    assert "Maximum lifetime in days: 90\n" in printed
    targets = [event.target for event in AuditEvent.objects.filter(action=Action.TEAM_CHANGED)]
    assert "Maximum lifetime in days: none → 90" in " ".join(targets)


def test_rule_set_while_the_command_runs_stays(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    Team.objects.update(policy=Policy(must_expire=True))

    def found_before(slug: str) -> Team:
        found = get_team(slug)
        Team.objects.update(policy=Policy(rotation_days=30, min_creator_role="owner"))
        return found

    monkeypatch.setattr(f"{setpolicy_command.__name__}.get_team", found_before)
    printed = setpolicy("--max-lifetime-days=90")
    team.refresh_from_db()
    assert team.policy == Policy(max_lifetime_days=90, rotation_days=30, min_creator_role="owner")
    assert "Rotation advised after days: 30\n" in printed
    event = AuditEvent.objects.get(action=Action.TEAM_CHANGED)
    assert event.target == "Policy: Maximum lifetime in days: none → 90"


def test_none_removes_a_rule(team: Team) -> None:
    Team.objects.update(policy=Policy(90, True, ("a",), ("chat",), 2, "ci-*", rotation_days=5))
    names = ("max-lifetime-days", "models", "endpoints", "max-keys-per-member", "name-pattern")
    setpolicy(*(f"--{name}=none" for name in names), "--rotation-days=none", "--must-expire=no")
    team.refresh_from_db()
    assert team.policy == NO_POLICY


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Nothing to change"),
        (["--max-lifetime-days=0"], "max_lifetime_days: .*greater than or equal to 1"),
        (["--endpoints=everything"], "endpoints: "),
        (["--models=*a*b*c*d"], "models: .*more than three stars"),
    ],
)
def test_invalid_values_are_errors_and_change_nothing(
    team: Team, given: list[str], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        setpolicy(*given)
    team.refresh_from_db()
    assert team.policy == NO_POLICY
