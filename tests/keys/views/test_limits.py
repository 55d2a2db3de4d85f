"""Limits in the portal: who sees them, who may set them, and how high."""

import json
from collections.abc import Callable

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.limits import AboveCeiling, set_key_limits
from keyportal.keys.models import ApiKey
from keyportal.teams.limits import LABELS, UNLIMITED, Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import Kind, Window, window_start
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
TEAM_LIMITS = "/teams/u-8105f7322477/limits/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def address(key: ApiKey) -> str:
    return f"{KEYS}{key.public_id}/limits/"


def limits_form(**limits: object) -> dict[str, object]:
    """The form as a browser sends it: every field, most of them empty."""
    return {name: limits.get(name, "") for name in LABELS}


def set_usage(subject: str, kind: Kind, **counts: int) -> None:
    start = window_start(kind, timezone.now())
    Window.objects.create(subject=subject, kind=kind, start=start, **counts)


def test_dialog_shows_limits_use_and_team_limits(
    sign_in: SignIn, bob: User, team: Team, issue: Issue
) -> None:
    Team.objects.update(
        limits=Limits(tokens_per_month=9_000_000), key_limits=Limits(requests_per_day=2000)
    )
    key, _ = issue(bob, "<b>nightly")
    set_usage(f"key:{key.public_id}", Kind.DAY, requests=1234, tokens=5)
    set_usage(f"team:{team.slug}", Kind.MONTH, requests=1, tokens=4_500_000)
    client = sign_in(bob)
    page, fragment = client.get(address(key)), client.get(address(key), headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<article id="limits"')
    for response in (page, fragment):
        text = response.content.decode()
        assert "&lt;b&gt;nightly" in text
        for expected in (
            *LABELS.values(),
            "1,234 of 2,000",
            "4,500,000 of 9,000,000",
            "at most 2,000",
        ):
            assert expected in text
        assert "HX-Request" in response["Vary"]


def test_dialog_says_if_the_team_has_no_limits(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    assert (
        "There is no limit for all keys"
        in sign_in(bob).get(address(key), headers=HTMX).content.decode()
    )


def test_member_sets_limits_of_their_own_key(
    sign_in: SignIn, bob: User, team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    limits = limits_form(requests_per_minute="60", parallel_requests="2")
    response = sign_in(bob).post(address(key), limits, headers=HTMX)
    assert response.status_code == 204
    assert [*json.loads(response["HX-Trigger"])] == ["keys-changed", "dialog-close", "show-message"]
    key.refresh_from_db()
    expected = Limits(requests_per_minute=60, parallel_requests=2)
    assert key.limits == expected
    event = AuditEvent.objects.for_team(team).get(action=Action.KEY_CHANGED)
    changes = "Requests per minute: none → 60, Parallel requests: none → 2"
    assert event.target == f"test-key ({key.public_id}): {changes}"
    assert (event.actor, event.address) == ("bob", "127.0.0.1")


def test_without_javascript_it_redirects_to_the_key(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "nightly")
    response = sign_in(bob).post(address(key), limits_form(tokens_per_day="5"), follow=True)
    assert response.redirect_chain == [(f"{KEYS}{key.public_id}/", 302)]
    assert "The limits of nightly are changed." in response.content.decode()


def test_saving_unchanged_limits_is_not_audited(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, limits=Limits(tokens_per_day=5))
    sign_in(bob).post(address(key), limits_form(tokens_per_day="5"), headers=HTMX)
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_empty_field_removes_a_limit(sign_in: SignIn, ada: User, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, limits=Limits(5, tokens_per_day=500))
    client = sign_in(ada)
    client.post(address(key), form_data(client.get(address(key)), tokens_per_day=""))
    assert ApiKey.objects.get().limits == Limits(5)


@pytest.mark.parametrize(
    ("form", "messages"),
    [
        (limits_form(requests_per_minute="61", tokens_per_day="1"), 1),
        (limits_form(tokens_per_day="1"), 1),  # No limit is the highest.
        (limits_form(), 2),
    ],
)
def test_member_cannot_exceed_the_ceiling(
    sign_in: SignIn,
    bob: User,
    issue: Issue,
    form: dict[str, object],
    messages: int,
) -> None:
    ceiling = Limits(requests_per_minute=60, tokens_per_day=5)
    Team.objects.update(key_limits=ceiling)
    issue(bob)
    key = ApiKey.objects.get()
    response = sign_in(bob).post(address(key), form, headers=HTMX)
    assert response.status_code == 422
    assert response.content.decode().count("At most ") == messages
    assert ApiKey.objects.get().limits == ceiling
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_admin_can_exceed_the_ceiling_and_the_owner_keeps_it_until_lowered(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=60))
    key, _ = issue(bob)
    sign_in(ada).post(address(key), limits_form(requests_per_minute="600"), headers=HTMX)
    client = sign_in(bob)
    for limit, status in (("601", 422), ("600", 204), ("599", 204), ("600", 422), ("60", 204)):
        limits = limits_form(requests_per_minute=limit)
        assert client.post(address(key), limits, headers=HTMX).status_code == status
    key.refresh_from_db()
    assert (key.limits, key.is_managed) == (Limits(requests_per_minute=60), False)
    sign_in(ada).post(address(key), limits_form(), headers=HTMX)
    key.refresh_from_db()
    assert key.limits == UNLIMITED


def test_current_ceiling_counts_not_the_one_on_the_page(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    set_key_limits(key, Limits(tokens_per_day=1), actor=bob)
    assert key.team.key_limits == UNLIMITED
    Team.objects.update(key_limits=Limits(tokens_per_day=5))
    with pytest.raises(AboveCeiling):
        set_key_limits(key, UNLIMITED, actor=bob)


def test_limits_above_a_lowered_ceiling_can_be_lowered(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    """Its owner would have to give up what they have, only to use less of something else."""
    key, _ = issue(bob)
    Team.objects.update(key_limits=Limits(tokens_per_day=5, requests_per_day=5))
    client = sign_in(bob)
    for form, status in (
        (limits_form(requests_per_minute="1"), 204),
        (limits_form(requests_per_minute="1", tokens_per_day="9"), 204),
        (limits_form(requests_per_minute="1", tokens_per_day="10"), 422),
        (limits_form(requests_per_minute="1"), 422),
        (limits_form(requests_per_day="9", tokens_per_day="5"), 204),
        (limits_form(requests_per_day="9", tokens_per_day="6"), 422),
    ):
        assert client.post(address(key), form, headers=HTMX).status_code == status
    assert ApiKey.objects.get().limits == Limits(requests_per_day=9, tokens_per_day=5)


def test_invalid_value_is_an_error_of_its_field(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    client = sign_in(ada)
    paths = [*[address(key)] * 5, TEAM_LIMITS]
    for path, nonsense in zip(paths, ("0", "-1", "many", "1.5", "9" * 16, "0"), strict=True):
        response = client.post(path, limits_form(tokens_per_day=nonsense))
        assert response.status_code == 422, nonsense
        assert 'id="id_tokens_per_day_error" role="alert"' in response.content.decode(), nonsense
    assert ApiKey.objects.get().limits == Team.objects.get().key_limits == UNLIMITED


def test_member_cannot_set_limits_of_keys_of_others(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    client = sign_in(bob)
    for response in (client.get(address(key)), client.post(address(key), limits_form())):
        assert response.status_code == 403
        assert "belongs to someone else" in response.content.decode()


def test_deleted_key_shows_a_message(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    gone = address(key)
    key.revoke(actor=bob)
    client = sign_in(bob)
    for response in (
        client.get(gone, headers=HTMX),
        client.post(gone, limits_form(), headers=HTMX),
    ):
        assert response.status_code == 404
        assert response.content.lstrip().startswith(b'<article id="gone"')


def test_list_offers_limits_only_to_those_who_may_change_them(
    sign_in: SignIn, alice: User, bob: User, vera: User, issue: Issue
) -> None:
    his, _ = issue(bob, "his")
    hers, _ = issue(alice, "hers")
    pages = {user: sign_in(user).get(KEYS).content.decode() for user in (alice, bob, vera)}
    assert [address(his) in pages[user] for user in (alice, bob, vera)] == [True, True, False]
    assert [address(hers) in pages[user] for user in (alice, bob, vera)] == [True, False, False]


# Those of the team.


def test_admin_sets_the_limits_of_new_keys(
    sign_in: SignIn, ada: User, bob: User, team: Team, issue: Issue
) -> None:
    old, _ = issue(bob, "old")
    response = sign_in(ada).post(TEAM_LIMITS, limits_form(requests_per_day="100"), follow=True)
    assert response.redirect_chain == [(TEAM_LIMITS, 302)]
    assert "The limits of new keys are changed." in response.content.decode()
    assert 'value="100"' in response.content.decode()
    new, _ = issue(bob, "new")
    old.refresh_from_db()
    assert (old.limits, new.limits) == (UNLIMITED, Limits(requests_per_day=100))
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert event.target == "Limits of new keys: Requests per day: none → 100"
    assert event.actor == "ada"


def test_page_shows_the_team_limits_with_their_use(sign_in: SignIn, ada: User, team: Team) -> None:
    assert "There is no limit for all keys" in sign_in(ada).get(TEAM_LIMITS).content.decode()
    Team.objects.update(limits=Limits(requests_per_minute=60))
    set_usage(f"team:{team.slug}", Kind.MINUTE, requests=60)
    page = sign_in(ada).get(TEAM_LIMITS).content.decode()
    assert "60 of 60" in page
    assert '<span class="used full">' in page


def test_only_admins_can_open_the_team_limits(sign_in: SignIn, ada: User, bob: User) -> None:
    policy = "/teams/u-8105f7322477/policy/"
    response = sign_in(bob).get(TEAM_LIMITS)
    assert response.status_code == 403
    assert "This needs the role Admin" in response.content.decode()
    assert TEAM_LIMITS not in sign_in(bob).get(policy).content.decode()
    assert TEAM_LIMITS in sign_in(ada).get(policy).content.decode()
