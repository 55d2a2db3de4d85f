from collections.abc import Callable
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys import secret
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy

pytestmark = pytest.mark.django_db


def issue_key(*arguments: str, owner: str = "bob", name: str = "ci") -> str:
    out = StringIO()
    who = ["--team=u-8105f7322477", f"--owner={owner}", f"--name={name}"]
    call_command("issue_key", *who, *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_issue_key_prints_the_key_and_nothing_else(bob: User) -> None:
    printed = issue_key()
    text = printed.removesuffix("\n").encode()
    assert secret.is_well_formed(text)
    assert Secret.objects.get(digest=secret.digest(text)).key.owner == bob
    assert AuditEvent.objects.get(action=Action.KEY_CREATED).actor == ""


def test_issue_key_takes_models_and_an_end(bob: User, model: ServedModel) -> None:
    tomorrow = (timezone.now() + timedelta(days=1)).replace(microsecond=0)
    issue_key(f"--model={model.name}", f"--expires={tomorrow.isoformat()}")
    key = ApiKey.objects.get()
    assert key.allowed_models == [model.name]
    assert key.expires_at == tomorrow


def test_a_key_starts_with_the_limits_of_the_team(bob: User) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=60))
    issue_key()
    key = ApiKey.objects.get()
    assert (key.limits, key.granted_limits) == (Limits(requests_per_minute=60), None)


def test_issue_key_takes_limits_and_grants_them(bob: User) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=60, tokens_per_day=5))
    issue_key("--requests-per-minute=600", "--tokens-per-day=none", "--parallel-requests=2")
    key = ApiKey.objects.get()
    expected = Limits(requests_per_minute=600, parallel_requests=2)
    assert key.limits == key.granted_limits == expected


def test_an_end_without_an_offset_is_utc(bob: User) -> None:
    issue_key("--expires=2199-12-31T23:59")
    end = ApiKey.objects.get().expires_at
    assert end is not None
    assert end.isoformat() == "2199-12-31T23:59:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"owner": "charlie"}, "charlie is not in the team"),
        ({"owner": "nobody"}, "no user named nobody"),
        ({"owner": "vera"}, "a viewer owns no keys"),
        ({"name": "x" * 65}, "at most 64 characters"),
        ({"name": "  "}, "cannot be blank"),
        ({"name": "taken"}, "already exists"),
        ({"name": f"my sk-kp-{'A' * 46}"}, "holds an API key"),
        ({"name": "test\u202ekey"}, "printable characters"),
        ({"name": "test\x1b[2Jkey"}, "printable characters"),
    ],
)
def test_issue_key_refuses(
    issue: Callable[..., tuple[ApiKey, str]],
    alice: User,
    bob: User,
    vera: User,
    charlie: User,
    arguments: dict[str, str],
    why: str,
) -> None:
    issue(bob, "taken")
    with pytest.raises(CommandError, match=why):
        issue_key(**arguments)
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize(
    ("argument", "why"),
    [
        ("--model=public/none", "can't call public/none"),
        ("--expires=soon", "soon is not an ISO 8601 time"),
        ("--expires=2020-01-01", "over already"),
    ],
)
def test_issue_key_refuses_bad_models_and_times(bob: User, argument: str, why: str) -> None:
    with pytest.raises(CommandError, match=why):
        issue_key(argument)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (
            Policy(longest_days=30),
            "must expire within 30 days. Give --expires, such as --expires 30d.",
        ),
        (Policy(must_expire=True), "must expire. Give --expires, such as --expires 90d."),
    ],
)
def test_issue_key_names_the_option_that_the_policy_asks_for(
    bob: User, policy: Policy, told: str
) -> None:
    Team.objects.update(policy=policy)
    with pytest.raises(CommandError) as refused:
        issue_key()
    assert str(refused.value) == f"Keys of this team {told}"
    assert not ApiKey.objects.exists()
    issue_key(*str(refused.value).rstrip(".").split()[-2:])
    assert ApiKey.objects.get().expires_at


def test_issue_key_holds_the_limit(bob: User, team: Team) -> None:
    Team.objects.update(key_limit=0)
    with pytest.raises(CommandError, match="0 of 0 API keys"):
        issue_key()


def test_issue_key_refuses_what_would_not_work(bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    with pytest.raises(CommandError, match="not active"):
        issue_key()


def test_delete_key_deletes_and_leaves_its_trace(
    issue: Callable[..., tuple[ApiKey, str]], bob: User
) -> None:
    key, _ = issue(bob)
    call_command("delete_key", key.public_id, stderr=StringIO())
    assert not ApiKey.objects.exists()
    assert AuditEvent.objects.get(action=Action.KEY_DELETED).target == str(key)


def test_delete_key_says_when_there_is_none(db: None) -> None:
    with pytest.raises(CommandError, match="no key with the public id AAAAAAAA"):
        call_command("delete_key", "AAAAAAAA")
