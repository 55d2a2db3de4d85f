"""`manage.py keys`: its output for people and for scripts, and its errors."""

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.catalog.models import ServedModel
from keyportal.keys import keystring
from keyportal.keys.management.commands.keys import Command
from keyportal.keys.models import ApiKey, KeyTemplate, Secret
from keyportal.keys.rotation import live_secrets
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.cases import case

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
SLUG = "u-8105f7322477"


class Run(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.out)


@pytest.fixture
def keys(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run the command as `manage.py` does; but the test's connection stays open afterwards."""
    monkeypatch.setattr("django.core.management.base.connections.close_all", lambda: None)

    def keys(*arguments: str) -> Run:
        capfd.readouterr()
        code = 0
        try:
            Command().run_from_argv(["manage.py", "keys", *arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        return Run(code, *capfd.readouterr())

    return keys


Keys = Callable[..., Run]
NEW = ("create", "--team", SLUG, "--owner", "bob", "--name", "ci")


def require_refused(run: Run, why: str) -> None:
    """One line on standard error, nothing on standard output."""
    assert run.code == 1
    assert run.out == ""
    assert run.err.count("\n") == 1
    assert why in run.err
    assert "Traceback" not in run.err


# Create.


def test_create_prints_only_the_key_string(keys: Keys, bob: User) -> None:
    run = keys(*NEW)
    assert run.code == 0
    text = run.out.removesuffix("\n").encode()
    key = Secret.objects.get(digest=keystring.digest(text)).key
    assert (key.name, key.owner, key.permissions) == ("ci", bob, Permissions())
    assert run.err == f"Created ci ({key.public_id}).\n"
    assert AuditEvent.objects.get(action=Action.KEY_CREATED).actor == ""


def test_create_with_json_prints_all_fields_and_the_key_string(
    keys: Keys, bob: User, model: ServedModel
) -> None:
    run = keys(
        *NEW,
        "--models",
        model.name,
        "public/*",
        "--endpoints",
        "chat",
        "--networks",
        "192.0.2.0/24",
        "2001:db8::/32",
        "--expires",
        "2099-01-31T18:00+01:00",
        "--description",
        "Nightly.",
        "--tags",
        "ci,night",
        "batch",
        "--requests-per-minute",
        "60",
        "--json",
    )
    assert (run.code, run.err) == (0, "")
    key = ApiKey.objects.get()
    document = run.json
    assert Secret.objects.get().digest == keystring.digest(document.pop("key").encode())
    assert datetime.fromisoformat(document.pop("created_at")).replace(
        microsecond=0
    ) == key.created_at.replace(microsecond=0)
    (one,) = document.pop("secrets")
    assert one["last4"] == Secret.objects.get().last4
    assert document == {
        "public_id": key.public_id,
        "name": "ci",
        "team": SLUG,
        "owner": "bob",
        "state": "active",
        "description": "Nightly.",
        "tags": ["ci", "night", "batch"],
        "masked": key.masked,
        "permissions": {
            "models": ["public/*", model.name],
            "endpoints": "chat",
            "networks": ["192.0.2.0/24", "2001:db8::/32"],
        },
        "limits": Limits(requests_per_minute=60)._asdict(),
        "expires_at": "2099-01-31T17:00:00Z",
        "disabled_at": None,
        "disabled_by": None,
        "managed": False,
        "reported_at": None,
        "last_used_at": None,
    }


@pytest.mark.parametrize(
    ("text", "days"), [("30d", 30), ("36h", 1.5), ("2099-01-31", None), ("never", 0)]
)
def test_create_accepts_an_expiry_in_three_formats(
    keys: Keys, bob: User, text: str, days: float | None
) -> None:
    before = timezone.now()
    assert keys(*NEW, "--expires", text).code == 0
    end = ApiKey.objects.get().expires_at
    if days is None:
        assert end == datetime(2099, 1, 31, 23, 59, 59, tzinfo=UTC)
    elif not days:
        assert end is None
    else:
        assert end is not None
        assert before <= end - timedelta(days=days) <= timezone.now()


def test_model_that_is_not_served_is_accepted_with_a_note(keys: Keys, bob: User) -> None:
    run = keys(*NEW, "--models", "public/later", "public/*")
    assert run.code == 0
    assert "Not served at present: public/later." in run.err


def test_key_without_options_is_as_wide_as_the_policy(keys: Keys, bob: User) -> None:
    Team.objects.update(policy=Policy(models=("public/*",), endpoints=("chat",)))
    assert keys(*NEW, "--networks", "192.0.2.1").code == 0
    expected = Permissions(("public/*",), Endpoints.CHAT, ("192.0.2.1/32",))
    assert ApiKey.objects.get().permissions == expected


def test_create_prints_errors_in_one_line(keys: Keys, bob: User, vera: User, charlie: User) -> None:
    for more, why in (
        (["--expires", "2020-01-01"], "is in the past"),
        (["--expires", "0d"], "is in the past"),
        (["--expires", "soon"], "not an ISO 8601 time"),
        (["--expires", "9999-12-31T23:59-10:00"], "not an ISO 8601 time"),
        (["--models", "a b"], "no name of a model"),
        (["--networks", "192.0.2.1/24"], "bits beyond its prefix"),
        (["--endpoints", "everything"], "invalid choice: 'everything'"),
        (["--requests-per-minute", "many"], "invalid number"),
        (["--requests-per-minute", "-1"], "from 1 to"),
        (["--name", "a\u202eb"], "printable"),
        (["--tags", "a\u202eb"], "printable"),
        (["--tags", "x" * 33], "longer than 32"),
        (["--tags", *map(str, range(21))], "At most 20 tags"),
        (["--tags", "sk-kp-7QmX2aPdk3Tz"], "contains an API key"),
        (["--description", "a\u202eb"], "printable"),
        (["--description", "x" * 501], "at most 500"),
        (["--name", ""], "blank"),
        (["--name", "x" * 65], "at most 64"),
        (["--owner", "charlie"], "is not in the team"),
        (["--owner", "vera"], "is a viewer"),
        (["--owner", "nobody"], "no user named nobody"),
        (["--team", "u-none"], "no team with the slug u-none"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
    ):
        with case(*more):
            require_refused(keys(*NEW, *more), why)
    require_refused(keys(*NEW, "--expires", "0d", "--json"), "is in the past")
    assert not ApiKey.objects.exists()


def test_create_prints_policy_violations(keys: Keys, bob: User) -> None:
    Team.objects.update(policy=Policy(must_expire=True, name_pattern="prod-*"))
    message = "Keys of this team must expire. Names of keys in this team must match prod-*."
    require_refused(keys(*NEW, "--json", "--expires", "never"), message)


@pytest.mark.parametrize(
    ("policy", "message", "more"),
    [
        (
            Policy(max_lifetime_days=7),
            "must expire within 7 days. Set --expires, such as --expires 7d.",
            ["--expires", "never"],
        ),
        (Policy(must_expire=True), "must expire. Set --expires, such as --expires 90d.", []),
    ],
)
def test_create_names_the_missing_option(
    keys: Keys, bob: User, policy: Policy, message: str, more: list[str]
) -> None:
    Team.objects.update(policy=policy)
    refused = keys(*NEW, *more)
    require_refused(refused, message)
    assert keys(*NEW, *refused.err.rstrip(".\n").split()[-2:]).code == 0


def test_too_late_expiry_gives_no_hint_to_set_one(keys: Keys, bob: User) -> None:
    Team.objects.update(policy=Policy(max_lifetime_days=7))
    refused = keys(*NEW, "--expires", "9d")
    require_refused(refused, "must expire within 7 days.")
    assert "Give" not in refused.err


def test_new_key_gets_the_default_limits_of_the_team(keys: Keys, bob: User) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=60))
    assert keys(*NEW).code == 0
    key = ApiKey.objects.get()
    assert key.limits == Limits(requests_per_minute=60)


def test_create_accepts_limits_above_those_of_new_keys(keys: Keys, bob: User) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=60, tokens_per_day=5))
    limits = ("--requests-per-minute=600", "--tokens-per-day=none", "--parallel-requests=2")
    assert keys(*NEW, *limits).code == 0
    key = ApiKey.objects.get()
    expected = Limits(requests_per_minute=600, parallel_requests=2)
    assert key.limits == expected


def test_create_enforces_the_key_limit_of_the_team(keys: Keys, bob: User) -> None:
    Team.objects.update(max_keys=0)
    require_refused(keys(*NEW), "0 of 0 API keys")


def test_create_refuses_an_owner_whose_account_is_not_active(keys: Keys, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_active=False)
    require_refused(keys(*NEW), "not active")


def test_taken_name_is_refused(keys: Keys, bob: User, issue: Issue) -> None:
    issue(bob, "ci")
    require_refused(keys(*NEW), "already exists in the team")


@pytest.fixture
def template(team: Team) -> KeyTemplate:
    template = KeyTemplate(team=team, name="CI job", lifetime_days=30)
    template.permissions = Permissions(("public/*",), Endpoints.CHAT, ("192.0.2.0/24",))
    template.save()
    return template


def test_template_sets_values_without_an_option(
    keys: Keys, bob: User, template: KeyTemplate
) -> None:
    before = timezone.now()
    assert keys(*NEW, "--template", "CI job").code == 0
    key = ApiKey.objects.get()
    assert key.permissions == template.permissions
    assert key.expires_at
    assert before <= key.expires_at - timedelta(days=30) <= timezone.now()


def test_options_override_the_template(keys: Keys, bob: User, template: KeyTemplate) -> None:
    more = ("--models", "public/large", "--networks", "198.51.100.7", "--expires", "never")
    assert keys(*NEW, "--template", "CI job", *more).code == 0
    key = ApiKey.objects.get()
    expected = Permissions(("public/large",), Endpoints.CHAT, ("198.51.100.7/32",))
    assert (key.permissions, key.expires_at) == (expected, None)


def test_template_cannot_exceed_the_policy(keys: Keys, bob: User, template: KeyTemplate) -> None:
    Team.objects.update(policy=Policy(models=("team/*",), max_lifetime_days=60))
    refused = keys(*NEW, "--template", "CI job")
    require_refused(refused, "may only call: team/*.")
    assert "--expires" not in refused.err


def test_template_of_another_team_is_not_found(
    keys: Keys, bob: User, template: KeyTemplate, other_team: Team
) -> None:
    KeyTemplate.objects.update(team=other_team)
    require_refused(keys(*NEW, "--template", "CI job"), f"{SLUG} has no template named CI job.")


# List and show.


def test_list_prints_keys_of_all_teams_or_one(
    keys: Keys, bob: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    mine, text = issue(bob, "mine")
    issue(charlie, "theirs", team=other_team)
    listed = keys("list", "--json").json
    assert [one["name"] for one in listed] == ["theirs", "mine"]
    (only,) = keys("list", "--team", SLUG, "--json").json
    assert only["public_id"] == mine.public_id
    assert "key" not in only
    assert text not in json.dumps(listed)
    table = keys("list", "--team", SLUG)
    heading, line = table.out.splitlines()
    assert heading.split("  ")[0] == "PUBLIC ID"
    assert line.split() == [mine.public_id, SLUG, "mine", "bob", "active", "never", "never"]
    assert table.err == ""


def test_last_use_is_printed_after_a_rotation(keys: Keys, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "mine")
    key.secrets.update(last_used_at=timezone.now())
    used_at = keys("show", key.public_id, "--json").json["last_used_at"]
    keys("rotate", key.public_id, "--grace", "now")
    assert used_at
    assert keys("list", "--json").json[0]["last_used_at"] == used_at
    assert "never" not in keys("list").out.splitlines()[1].split()[6:]


def test_empty_list_prints_the_heading(keys: Keys, team: Team) -> None:
    assert keys("list", "--json").json == []
    assert keys("list").out == "PUBLIC ID  TEAM  NAME  OWNER  STATE  EXPIRES  LAST USED\n"


def test_show_prints_one_key(keys: Keys, bob: User, issue: Issue) -> None:
    key, text = issue(bob, limits=Limits(tokens_per_day=5), permissions=Permissions(("public/*",)))
    document = keys("show", key.public_id, "--json").json
    assert (document["public_id"], document["name"]) == (key.public_id, "test-key")
    assert "key" not in document
    lines = keys("show", key.public_id).out.splitlines()
    assert f"public id: {key.public_id}" in lines
    assert "models: public/*" in lines
    assert "tokens per day: 5" in lines
    assert text not in "".join(lines)


@pytest.mark.parametrize(
    ("state", "spoil"),
    [
        (
            "disabled",
            lambda: ApiKey.objects.update(disabled_at=timezone.now(), disabled_by="owner"),
        ),
        ("expired", lambda: ApiKey.objects.update(expires_at=datetime(2026, 1, 2, tzinfo=UTC))),
        ("ownerless", lambda: User.objects.update(is_active=False)),
        ("team off", lambda: Team.objects.update(is_active=False)),
    ],
)
def test_show_prints_why_a_key_is_refused(
    keys: Keys, bob: User, issue: Issue, state: str, spoil: Callable[[], object]
) -> None:
    key, _ = issue(bob)
    spoil()
    assert keys("show", key.public_id, "--json").json["state"] == state


# Rotate, disable, enable and delete.


def test_rotate_prints_the_new_key_string(keys: Keys, bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    run = keys("rotate", key.public_id)
    assert run.code == 0
    assert keystring.is_well_formed(run.out.strip().encode())
    assert run.err == f"Rotated {key}.\n"
    assert bytes(Tombstone.objects.get().digest) == keystring.digest(old.encode())


def test_rotate_with_grace_and_json(keys: Keys, bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    document = keys("rotate", key.public_id, "--grace", "1h", "--json").json
    assert (document["public_id"], document["name"]) == (key.public_id, "test-key")
    live = [bytes(one.digest) for one in live_secrets(key)]
    assert live == [keystring.digest(text.encode()) for text in (document["key"], old)]
    assert [one["last4"] for one in document["secrets"]] == [document["key"][-4:], old[-4:]]
    require_refused(
        keys("rotate", key.public_id, "--grace", "1h", "--json"), "already has two secrets"
    )
    require_refused(keys("rotate", key.public_id, "--grace", "2h"), "invalid choice: '2h'")


def test_disable_and_enable(keys: Keys, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    for _ in range(2):
        document = keys("disable", key.public_id, "--json").json
        assert document["state"] == "disabled"
        assert document["disabled_at"]
        assert document["disabled_by"] == "admin"
    run = keys("enable", key.public_id)
    assert (run.code, run.out, run.err) == (0, "", f"Enabled {key}.\n")
    key.refresh_from_db()
    assert key.disabled_at is None
    assert AuditEvent.objects.filter(action=Action.KEY_DISABLED).count() == 1


def test_leaked_key_is_enabled_only_with_the_option(keys: Keys, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    keys("disable", key.public_id)
    ApiKey.objects.update(reported_at=timezone.now())
    require_refused(keys("enable", key.public_id), "reported as leaked")
    assert ApiKey.objects.get().disabled_at is not None
    assert keys("enable", key.public_id, "--accept-leak").code == 0
    assert ApiKey.objects.get().disabled_at is None


def test_delete_prints_the_deleted_key(keys: Keys, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    document = keys("delete", key.public_id, "--json").json
    assert (document["public_id"], document["name"], document["state"]) == (
        key.public_id,
        "test-key",
        "deleted",
    )
    assert not ApiKey.objects.exists()
    assert AuditEvent.objects.filter(action=Action.KEY_DELETED).count() == 1
    another, _ = issue(bob)
    run = keys("delete", another.public_id)
    assert (run.code, run.out, run.err) == (0, "", f"Deleted {another}.\n")


ACTIONS = ("show", "rotate", "disable", "enable", "delete")


def test_key_of_another_team_is_not_found_with_team_option(
    keys: Keys, bob: User, other_team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    for action, *form in (*((action,) for action in ACTIONS), ("show", "--json")):
        with case(action, *form):
            guarded = keys(action, key.public_id, "--team", other_team.slug, *form)
            require_refused(guarded, f"There is no such key: {key.public_id}.")
            unknown = keys(action, key.public_id[::-1], *form)
            assert guarded.err == unknown.err.replace(key.public_id[::-1], key.public_id)
    require_refused(keys("show", key.public_id, "--team", "u-none"), "no team with the slug")
    assert not AuditEvent.objects.exclude(action=Action.KEY_CREATED).exists()
    for action in ACTIONS:
        assert keys(action, key.public_id, "--team", SLUG).code == 0, action


def test_key_string_given_as_public_id_is_not_printed(keys: Keys, bob: User, issue: Issue) -> None:
    _, text = issue(bob)
    run = keys("show", text)
    require_refused(run, "There is no such key")
    assert text[14:] not in run.err


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["show"], ["create", "--json"]])
def test_usage_errors_are_one_line(keys: Keys, team: Team, arguments: list[str]) -> None:
    require_refused(keys(*arguments), "CommandError: Error: ")


def test_database_error_is_one_line(
    keys: Keys, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ApiKey._meta, "db_table", "elsewhere")
    require_refused(keys("list", "--json"), "elsewhere")


def test_command_can_be_called_from_python(bob: User, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("keys", *NEW, "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "ci"


# What is told of a key that stands where something else was wanted.


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "KEY"),
        (*NEW, "--template", "KEY"),
        (*NEW, "--expires", "KEY"),
        (*NEW, "--endpoints", "KEY"),
        (*NEW, "--requests-per-minute", "KEY"),
        ("list", "--team", "KEY"),
        ("list", "KEY"),
        ("KEY",),
    ],
)
def test_errors_do_not_print_a_key_string(
    keys: Keys, bob: User, issue: Issue, arguments: tuple[str, ...]
) -> None:
    """A script's log is read by more people than may have its keys."""
    key, text = issue(bob)
    run = keys(*(text if argument == "KEY" else argument for argument in arguments))
    require_refused(run, f"sk-kp-{key.public_id}…")
    assert text[14:] not in run.err


@pytest.mark.parametrize("name", ["delete_management_key", "setteam"])
def test_errors_of_other_commands_do_not_print_a_key_string(
    bob: User, issue: Issue, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """By a name that is not there, by what is one argument too many, and by a traceback."""
    key, text = issue(bob)
    with pytest.raises(CommandError) as refusal:
        call_command(name, f"{text}/old")
    assert f"sk-kp-{key.public_id}…" in str(refusal.value)
    assert text[14:] not in "".join(traceback.format_exception(refusal.value))
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        load_command_class(get_commands()[name], name).run_from_argv(["manage.py", name, "a", text])
    assert end.value.code == 2
    assert f"sk-kp-{key.public_id}…" in (err := capfd.readouterr().err)
    assert text[14:] not in err
