"""What an admin or operator takes from somebody's key, its owner may take further, but not give
back."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys import leaks
from keyportal.keys.badges import badges
from keyportal.keys.changes import AT_MOST, Changes, change, disable, enable, hand_over
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.permissions import Endpoints, Permissions
from keyportal.keys.presets import Preset
from keyportal.keys.refusals import BeyondGranted, EndsTooLate, Held
from keyportal.keys.reports import OPERATOR, Found, Report
from keyportal.keys.rotation import Grace, bury_ended, rotate
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]
ASK = "To enable it, ask an admin."


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    return issue(bob, actor=bob)[0]


def address(key: ApiKey, what: str = "") -> str:
    return f"{KEYS}{key.public_id}/{what}"


def has_button(client: Client, key: ApiKey) -> bool:
    return f'action="{address(key, "enable/")}"' in client.get(address(key)).content.decode()


def is_held(key: ApiKey) -> bool:
    """As it is now; what is held is disabled."""
    key.refresh_from_db()
    assert key.disabled_at or not key.is_held
    return key.is_held


def rows(action: Action) -> list[str]:
    """Who did it, the oldest first."""
    found = AuditEvent.objects.filter(action=action).order_by("pk")
    return [*found.values_list("actor", flat=True)]


# Disabled.


def test_what_an_admin_disabled_its_owner_does_not_enable_in_the_portal(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    client = sign_in(ada)
    question = client.get(address(key, "disable/")).content.decode()
    assert "Only an admin can enable it again." in question
    assert client.post(address(key, "disable/"), headers=HTMX).status_code == 204
    client = sign_in(bob)
    assert not has_button(client, key)
    page = client.get(address(key)).content.decode()
    assert "An admin of Acme or an operator has disabled this key." in page
    assert "Only admins of Acme can enable it." in page
    forged = client.post(address(key, "enable/"))
    assert forged.status_code == 403
    assert ASK in forged.content.decode()
    # HTMX gets the sentence alone, which the page then tells.
    sentence = client.post(address(key, "enable/"), headers=HTMX)
    assert (sentence.status_code, sentence["Content-Type"]) == (403, "text/plain; charset=utf-8")
    assert sentence.content.decode().endswith(ASK)
    assert is_held(key)
    assert rows(Action.KEY_ENABLED) == []
    assert "until an admin enables it" in client.get(address(key, "rotate/")).content.decode()
    (badge,) = badges(ApiKey.objects.for_display().get())
    assert badge.title == "It is refused until an admin enables it."


@pytest.mark.parametrize("name", ["ada", "alice", "a command"])
def test_admins_owners_of_the_team_and_operators_enable_it(
    sign_in: SignIn, alice: User, ada: User, bob: User, key: ApiKey, name: str
) -> None:
    call_command("keys", "disable", key.public_id)
    assert is_held(key)
    if name == "a command":
        call_command("keys", "enable", key.public_id)
    else:
        client = sign_in({"ada": ada, "alice": alice}[name])
        assert has_button(client, key)
        assert client.post(address(key, "enable/"), headers=HTMX).status_code == 204
    assert not is_held(key)
    # What was taken is given back: its owner does as they like again.
    disable(key, actor=bob)
    enable(key, actor=bob)
    assert ApiKey.objects.get().disabled_at is None


def test_what_an_owner_disabled_is_theirs_to_enable(
    sign_in: SignIn, bob: User, key: ApiKey
) -> None:
    client = sign_in(bob)
    question = client.get(address(key, "disable/")).content.decode()
    assert "It can be enabled again at any time." in question
    client.post(address(key, "disable/"))
    assert not is_held(key)
    assert has_button(client, key)
    assert "has disabled this key" not in client.get(address(key)).content.decode()


@pytest.mark.parametrize("who", ["ada", "a command"])
def test_a_key_that_its_owner_had_disabled_is_held_too(
    ada: User, bob: User, key: ApiKey, who: str
) -> None:
    """Or they would enable it, after the admin has read that it is disabled."""
    since = disable(key, actor=bob).disabled_at
    for _ in range(2):
        disable(key, actor=ada if who == "ada" else None)
    assert is_held(key)
    assert key.disabled_at == since
    assert rows(Action.KEY_DISABLED) == ["bob", "ada" if who == "ada" else ""]
    disable(key, actor=bob)
    with pytest.raises(Held):
        enable(key, actor=bob)


def test_an_owner_who_is_an_admin_is_free(ada: User, issue: Issue) -> None:
    """By what others of their kind did, and by what they did themselves and no longer are one."""
    key, _ = issue(ada)
    disable(key, actor=None)
    assert is_held(key)
    enable(key, actor=ada)
    disable(key, actor=ada)
    assert not is_held(key)
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    enable(key, actor=ada)
    assert ApiKey.objects.get().disabled_at is None


def test_a_held_key_that_is_handed_over_stays_held(
    alice: User, ada: User, bob: User, team: Team, key: ApiKey
) -> None:
    cora = User.objects.create_user("cora", "cora@example.com")
    Membership.objects.create(team=team, user=cora, role=Role.MEMBER)
    disable(key, actor=ada)
    hand_over(key, cora, actor=bob)
    for stranger in (cora, bob):
        with pytest.raises(Held):
            enable(key, actor=stranger)
    hand_over(key, alice, actor=ada)
    assert is_held(key)
    enable(key, actor=alice)
    assert not is_held(key)


@pytest.mark.parametrize("columns", [{"disabled_by": "leak"}, {"disabled_at": timezone.now()}])
def test_a_key_is_disabled_by_somebody_or_by_none(key: ApiKey, columns: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(**columns)


def test_nothing_is_held_that_is_not_disabled(key: ApiKey) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(is_held=True)


# Disabled after a report.


@pytest.fixture
def reported(bob: User, issue: Issue) -> tuple[ApiKey, str]:
    """A key that a report has disabled, and its plaintext."""
    key, plaintext = issue(bob, actor=bob)
    report(plaintext)
    key.refresh_from_db()
    assert key.disabled_by == ApiKey.DisabledBy.LEAK
    return key, plaintext


def report(plaintext: str) -> None:
    leaks.report(Report([Found(plaintext)], OPERATOR), address=None)


@pytest.mark.parametrize("way", ["page", "bulk", "command"])
def test_a_reported_key_is_disabled_for_good(
    sign_in: SignIn, ada: User, bob: User, reported: tuple[ApiKey, str], way: str
) -> None:
    key, _ = reported
    if way == "page":
        sign_in(ada).post(address(key, "disable/"))
    elif way == "bulk":
        sign_in(ada).post(f"{KEYS}bulk/disable/", {"keys": [key.public_id]})
    else:
        call_command("keys", "disable", key.public_id)
    assert rows(Action.KEY_DISABLED) == ["" if way == "command" else "ada"]
    rotate(key, Grace.NOW, actor=bob)
    assert is_held(key)
    assert (key.reported_at, key.disabled_by) == (None, ApiKey.DisabledBy.ADMIN)
    assert rows(Action.KEY_ENABLED) == []


def test_the_scheduler_does_not_enable_it_either(
    ada: User, bob: User, reported: tuple[ApiKey, str]
) -> None:
    key, _ = reported
    disable(key, actor=ada)
    rotate(key, Grace.DAY, actor=bob)
    now = timezone.now()
    Secret.objects.filter(expires_at__gt=now).update(expires_at=now - timedelta(seconds=1))
    assert bury_ended() == 1
    assert is_held(key)
    assert key.reported_at is None


def test_an_owner_disables_a_reported_key_and_rotates_it_in_peace(
    bob: User, reported: tuple[ApiKey, str]
) -> None:
    key, _ = reported
    for _ in range(2):
        disable(key, actor=bob)
    assert rows(Action.KEY_DISABLED) == ["bob"]
    rotate(key, Grace.NOW, actor=bob)
    key.refresh_from_db()
    assert key.disabled_at
    enable(key, actor=bob)


def test_a_report_of_a_held_key_lets_go_of_nothing(ada: User, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob, actor=bob)
    since = disable(key, actor=ada).disabled_at
    report(plaintext)
    assert is_held(key)
    assert key.disabled_at == since
    assert key.reported_at
    rotate(key, Grace.NOW, actor=bob)
    assert is_held(key)
    with pytest.raises(Held):
        enable(key, actor=bob)


def test_an_owner_enables_what_only_a_report_has_disabled(
    bob: User, reported: tuple[ApiKey, str]
) -> None:
    enable(reported[0], actor=bob)
    assert ApiKey.objects.get().disabled_at is None


# What it may do.

NARROW = Permissions(("public/*",), Endpoints.CHAT, ("10.0.0.0/8",))
NARROWER = NARROW._replace(models=("public/small",))
WIDER = NARROW._replace(models=("public/*", "u/x"))
FORM = {"scope": "chosen", "patterns": "public/*", "endpoints": "chat", "networks": "10.0.0.0/8"}


def require_no_widening(bob: User, key: ApiKey) -> None:
    """Bob narrows it and takes that back, and goes no further."""
    for permissions in (NARROWER, NARROW):
        change(key, Changes(permissions=permissions), actor=bob)
    for wider in (WIDER, Permissions()):
        with pytest.raises(BeyondGranted):
            change(key, Changes(permissions=wider), actor=bob)
    key.refresh_from_db()
    assert key.permissions == NARROW


def test_an_owner_does_not_widen_what_an_operator_made_for_them(
    bob: User, model: ServedModel
) -> None:
    made = ["--team", "u-8105f7322477", "--owner", "bob", "--name", "ci", "--models", model.name]
    call_command("keys", "create", *made)
    key = ApiKey.objects.get()
    with pytest.raises(BeyondGranted):
        change(key, Changes(permissions=Permissions()), actor=bob)


def test_a_template_that_an_operator_names_is_their_word(bob: User, team: Team) -> None:
    Preset.objects.create(team=team, name="chat", endpoints=Endpoints.CHAT)
    made = ["--team", team.slug, "--owner", "bob", "--name", "ci", "--template", "chat"]
    call_command("keys", "create", *made)
    with pytest.raises(BeyondGranted):
        change(ApiKey.objects.get(), Changes(permissions=Permissions()), actor=bob)


def test_where_an_operator_says_nothing_the_policy_alone_bounds_the_owner(
    bob: User, team: Team
) -> None:
    Team.objects.update(policy=Policy(models=("public/*",)))
    call_command("keys", "create", "--team", team.slug, "--owner", "bob", "--name", "ci")
    key = ApiKey.objects.get()
    assert (key.allowed_models, key.granted_permissions) == (["public/*"], None)
    Team.objects.update(policy=Policy())
    change(key, Changes(permissions=Permissions()), actor=bob)


def test_what_a_member_makes_for_themselves_is_theirs_to_widen(bob: User, issue: Issue) -> None:
    key, _ = issue(bob, actor=bob, permissions=NARROW)
    assert key.granted_permissions is None
    change(key, Changes(permissions=Permissions()), actor=bob)


@pytest.mark.parametrize("who", ["ada", "alice", "an operator"])
def test_who_is_handed_an_admins_narrow_key_does_not_widen_it(
    client: Client, alice: User, ada: User, bob: User, issue: Issue, who: str
) -> None:
    """Whoever hands it over: its owner, another admin, or an operator in the admin."""
    key, _ = issue(ada, actor=ada, permissions=NARROW)
    if who == "an operator":
        client.force_login(User.objects.create_superuser("root", "root@example.com"))
        form = {"name": key.name, "owner": bob.pk, "allowed_models": key.allowed_models}
        form |= {"secrets-TOTAL_FORMS": 0, "secrets-INITIAL_FORMS": 0}
        path = f"/admin/keys/apikey/{key.pk}/change/"
        assert client.post(path, form).status_code == 302
    else:
        hand_over(key, bob, actor={"ada": ada, "alice": alice}[who])
    key.refresh_from_db()
    assert key.owner == bob
    require_no_widening(bob, key)


def test_what_a_member_narrowed_is_the_next_owners_to_widen(
    alice: User, ada: User, bob: User, team: Team, issue: Issue
) -> None:
    """An admin who hands it on takes nothing from it."""
    cora = User.objects.create_user("cora", "cora@example.com")
    Membership.objects.create(team=team, user=cora, role=Role.MEMBER)
    key, _ = issue(cora, actor=cora, permissions=NARROW)
    hand_over(key, bob, actor=ada)
    change(key, Changes(permissions=Permissions()), actor=bob)


def test_an_admins_disabled_key_is_held_once_it_is_somebody_elses(
    ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(ada, actor=ada)
    disable(key, actor=ada)
    hand_over(key, bob, actor=ada)
    assert is_held(key)
    reported, text = issue(ada, "reported", actor=ada)
    report(text)
    hand_over(reported, bob, actor=ada)
    assert not is_held(reported)


def test_an_admin_who_saves_what_was_there_sets_it(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    """They read that it is changed. So it is: the owner may have no more, and the audit tells."""
    change(key, Changes(permissions=NARROW), actor=bob)
    before = AuditEvent.objects.about(key.public_id).count()
    client = sign_in(ada)
    for _ in range(2):
        assert client.post(address(key, "permissions/"), FORM, headers=HTMX).status_code == 204
    require_no_widening(bob, key)
    rows = AuditEvent.objects.about(key.public_id).order_by("pk")[before:]
    assert (rows[0].actor, rows[0].target) == ("ada", f"{key}: {AT_MOST}")
    assert [row.actor for row in rows] == ["ada", "bob", "bob"]


def test_an_admin_is_not_bound_on_their_own_key_and_lifts_what_they_go_beyond(
    ada: User, issue: Issue
) -> None:
    key, _ = issue(ada, permissions=NARROW)
    change(key, Changes(permissions=NARROWER), actor=ada)
    assert ApiKey.objects.get().granted_permissions == NARROW
    change(key, Changes(permissions=WIDER), actor=ada)
    assert ApiKey.objects.get().granted_permissions is None
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    change(key, Changes(permissions=Permissions()), actor=ada)


def test_the_form_tells_the_most_beforehand(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    def question(person: User) -> str:
        text = sign_in(person).get(address(key, "permissions/"), headers=HTMX).content.decode()
        return " ".join(text.split())

    assert "the most" not in question(bob)
    change(key, Changes(permissions=NARROW._replace(models=("public/*", "<b>"))), actor=ada)
    change(key, Changes(permissions=NARROWER), actor=bob)
    assert (
        "An admin of Acme or an operator has set the most that it may do: "
        "models <code>public/*</code>, <code>&lt;b&gt;</code>; chat and text generation only; "
        "from <code>10.0.0.0/8</code>. You may narrow it further."
    ) in question(bob)
    assert "What you set here is also the most that its owner may choose." in question(ada)
    change(key, Changes(permissions=Permissions((), Endpoints.READ)), actor=ada)
    assert "all models; read-only: list the models, call none. You may" in question(bob)
    # Everything is no bound.
    change(key, Changes(permissions=Permissions()), actor=ada)
    assert "the most" not in question(bob)


# When it ends.

END = datetime(2199, 1, 31, 18, tzinfo=UTC)
SOONER, LATER = END - timedelta(days=9), END + timedelta(seconds=1)
TOO_LATE = "this key ends at 2199-01-31 18:00 UTC at the latest"


def require_no_later_end(bob: User, key: ApiKey) -> None:
    """Bob brings it closer and takes that back, and goes no further."""
    for end in (SOONER, END):
        change(key, Changes(expires_at=end), actor=bob)
    for later in (LATER, None):
        with pytest.raises(EndsTooLate, match=TOO_LATE):
            change(key, Changes(expires_at=later), actor=bob)
    key.refresh_from_db()
    assert key.expires_at == END


def test_an_owner_brings_an_end_closer_that_an_admin_set_and_no_later(
    ada: User, bob: User, key: ApiKey
) -> None:
    change(key, Changes(expires_at=END), actor=ada)
    require_no_later_end(bob, key)
    # An admin who puts it off puts off what the owner may, and one who lifts it lifts that.
    change(key, Changes(expires_at=LATER), actor=ada)
    change(key, Changes(expires_at=SOONER), actor=bob)
    change(key, Changes(expires_at=LATER), actor=bob)
    change(key, Changes(expires_at=None), actor=ada)
    for end in (END, LATER, None):
        change(key, Changes(expires_at=end), actor=bob)


def test_an_end_that_an_admin_repeats_is_the_latest_from_then_on(
    ada: User, bob: User, key: ApiKey
) -> None:
    change(key, Changes(expires_at=END), actor=bob)
    set_at = ApiKey.objects.get().expiry_set_at
    change(key, Changes(expires_at=END), actor=ada)
    assert ApiKey.objects.get().expiry_set_at == set_at  # No reminder comes a second time.
    assert AuditEvent.objects.about(key.public_id).filter(target=f"{key}: {AT_MOST}").exists()
    require_no_later_end(bob, key)


def test_an_end_that_an_operator_gives_is_the_latest(bob: User, team: Team) -> None:
    made = ["--team", team.slug, "--owner", "bob", "--name", "ci", "--expires", END.isoformat()]
    call_command("keys", "create", *made)
    require_no_later_end(bob, ApiKey.objects.get())


def test_who_is_handed_an_admins_key_has_it_no_longer_than_that(
    ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(ada, actor=ada, expires_at=END)
    hand_over(key, bob, actor=ada)
    require_no_later_end(bob, key)


def test_an_end_of_ones_own_is_put_off_and_lifted(ada: User, bob: User, issue: Issue) -> None:
    for owner in (bob, ada):
        key, _ = issue(owner, f"of {owner}", actor=owner, expires_at=END)
        for end in (LATER, SOONER, None):
            change(key, Changes(expires_at=end), actor=owner)
        assert ApiKey.objects.get(pk=key.pk).granted_expires_at is None


def test_the_form_tells_the_latest_end_beforehand_and_refuses_a_later_one(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    path = address(key, "expiry/")
    client = sign_in(ada)
    question = client.get(path, headers=HTMX).content.decode()
    assert "What you set here is also the latest end that its owner may choose." in question
    assert client.post(path, {"lifetime": "60"}, headers=HTMX).status_code == 204
    latest = ApiKey.objects.get().expires_at
    assert latest
    client = sign_in(bob)
    question = client.get(path, headers=HTMX).content.decode()
    assert "An admin of Acme or an operator has set that it ends at" in question
    assert "You may bring its end closer." in question
    assert f'max="{latest:%Y-%m-%d}"' in question
    day_after = {"lifetime": "date", "end_date": f"{latest + timedelta(days=1):%Y-%m-%d}"}
    for later in ({"lifetime": "never"}, {"lifetime": "90"}, day_after):
        answer = client.post(path, later, headers=HTMX)
        assert answer.status_code == 422
        assert f"ends at {latest:%Y-%m-%d %H:%M} UTC at the latest" in answer.content.decode()
    # Closer it may be, and back on the very day it ends when the admin said.
    on_the_day = {"lifetime": "date", "end_date": f"{latest:%Y-%m-%d}"}
    for end in ({"lifetime": "30"}, on_the_day):
        assert client.post(path, end, headers=HTMX).status_code == 204
    assert ApiKey.objects.get().expires_at == latest


def test_once_that_end_is_over_only_an_admin_puts_it_off(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    change(key, Changes(expires_at=timezone.now() - timedelta(minutes=1)), actor=ada)
    path = address(key, "expiry/")
    client = sign_in(bob)
    assert "Only an admin can put it off." in client.get(path).content.decode()
    today = {"lifetime": "date", "end_date": str(timezone.now().date())}
    for form in (today, {"lifetime": "7"}):
        assert client.post(path, form, headers=HTMX).status_code == 422
    assert sign_in(ada).post(path, {"lifetime": "7"}, headers=HTMX).status_code == 204
    assert not ApiKey.objects.get().has_expired
