"""Deleting or disabling several keys at once, each with its own audit row."""

from collections.abc import Callable

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys.models import ApiKey
from keyportal.keys.views import bulk
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call, UsageHour
from keyportal.usage.reports.periods import Step

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
DELETE, DISABLE = f"{KEYS}bulk/delete/", f"{KEYS}bulk/disable/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def keys(bob: User, issue: Issue) -> list[ApiKey]:
    return [issue(bob, name)[0] for name in ("<b>a", "b", "c")]


def chosen(keys: list[ApiKey]) -> dict[str, list[str]]:
    return {"keys": [key.public_id for key in keys]}


def test_confirmation_lists_the_keys(
    sign_in: SignIn, bob: User, team: Team, keys: list[ApiKey]
) -> None:
    UsageHour.objects.create(
        owner_id=7,
        start=Step.HOUR.floor(timezone.now()),
        team_slug=team.slug,
        public_id=keys[1].public_id,
        model="public/large",
        requests=1234,
    )
    for key, address in ((keys[1], "192.0.2.7"), (keys[2], "198.51.100.1")):
        Call.objects.create(
            owner_id=7,
            started_at=timezone.now(),
            team_slug=team.slug,
            public_id=key.public_id,
            address=address,
            user_agent="<curl>",
            status=200,
            duration_ms=1,
        )
    client = sign_in(bob)
    for path in (DELETE, DISABLE):
        page = client.get(path, chosen(keys[:2]))
        fragment = client.get(path, chosen(keys[:2]), headers=HTMX)
        assert page.content.lstrip().startswith(b"<!doctype html>")
        assert fragment.content.lstrip().startswith(b'<article id="bulk"')
        for response in (page, fragment):
            text = response.content.decode()
            for expected in (
                "&lt;b&gt;a",
                keys[1].masked,
                "bob",
                "2 API keys",
                "1,234 calls</strong>",
            ):
                assert expected in text
            for expected in ("used these keys", "public/large", "192.0.2.7", "&lt;curl&gt;"):
                assert expected in text
            assert "198.51.100.1" not in text
            assert keys[2].public_id not in text
            assert "HX-Request" in response["Vary"]
        assert f'hx-post="{path}"' in fragment.content.decode()
        assert f'hx-post="{path}"' not in page.content.decode()
    assert ApiKey.objects.filter(disabled_at=None).count() == 3


def test_member_deletes_several_keys(
    sign_in: SignIn, bob: User, team: Team, keys: list[ApiKey]
) -> None:
    response = sign_in(bob).post(DELETE, chosen(keys[:2]), headers=HTMX)
    assert response.status_code == 204
    assert response["HX-Trigger"] == (
        '{"keys-changed": null, "dialog-close": null, "show-message": "2 keys are deleted."}'
    )
    assert [key.name for key in ApiKey.objects.all()] == ["c"]
    assert Tombstone.objects.count() == 2
    events = AuditEvent.objects.for_team(team).filter(action=Action.KEY_DELETED)
    assert {event.target for event in events} == {str(key) for key in keys[:2]}
    assert {(event.actor, event.address) for event in events} == {("bob", "127.0.0.1")}


def test_admin_disables_keys_of_others(
    sign_in: SignIn, ada: User, team: Team, keys: list[ApiKey]
) -> None:
    response = sign_in(ada).post(DISABLE, chosen(keys[1:]), headers=HTMX)
    assert response.status_code == 204
    assert [key.name for key in ApiKey.objects.filter(disabled_at=None)] == ["<b>a"]
    events = AuditEvent.objects.for_team(team).filter(action=Action.KEY_DISABLED)
    assert {event.target for event in events} == {str(key) for key in keys[1:]}


def test_without_javascript_it_redirects_to_the_list(
    sign_in: SignIn, bob: User, keys: list[ApiKey]
) -> None:
    response = sign_in(bob).post(DELETE, chosen(keys), follow=True)
    assert response.redirect_chain == [(KEYS, 302)]
    assert "3 keys are deleted." in response.content.decode()


def test_keys_deleted_in_the_meantime_are_skipped(
    sign_in: SignIn, alice: User, bob: User, keys: list[ApiKey]
) -> None:
    keys[0].revoke(actor=alice)
    response = sign_in(bob).post(DELETE, chosen(keys), follow=True)
    assert "2 keys are deleted. 1 was already deleted." in response.content.decode()


def test_repeated_request_changes_nothing(sign_in: SignIn, bob: User, keys: list[ApiKey]) -> None:
    client = sign_in(bob)
    client.post(DELETE, chosen(keys))
    response = client.post(DELETE, chosen(keys), headers=HTMX)
    assert response.status_code == 404
    assert "None of these keys exists in this team." in response.content.decode()
    assert AuditEvent.objects.filter(action=Action.KEY_DELETED).count() == 3


def test_disabling_a_disabled_key_is_not_audited(
    sign_in: SignIn, bob: User, keys: list[ApiKey]
) -> None:
    client = sign_in(bob)
    for _ in range(2):
        client.post(DISABLE, chosen(keys[:1] * 2))
    assert AuditEvent.objects.filter(action=Action.KEY_DISABLED).count() == 1


def test_empty_selection_changes_nothing(sign_in: SignIn, bob: User, keys: list[ApiKey]) -> None:
    client = sign_in(bob)
    for path in (DELETE, DISABLE):
        for response in (client.get(path), client.post(path)):
            assert response.status_code == 200, path
            assert "No keys are selected." in response.content.decode(), path
    assert ApiKey.objects.filter(disabled_at=None).count() == 3


# Attackers.


def test_member_cannot_include_keys_of_others(
    sign_in: SignIn, alice: User, bob: User, keys: list[ApiKey], issue: Issue
) -> None:
    hers, _ = issue(alice, "hers")
    client, form = sign_in(bob), chosen([*keys, hers])
    for path in (DELETE, DISABLE):
        for response in (client.get(path, form), client.post(path, form)):
            assert response.status_code == 403, path
            assert "belongs to someone else" in response.content.decode(), path
    assert ApiKey.objects.filter(disabled_at=None).count() == 4


@pytest.mark.parametrize("path", [DELETE, DISABLE])
def test_keys_of_another_team_are_not_found(
    sign_in: SignIn,
    alice: User,
    charlie: User,
    other_team: Team,
    keys: list[ApiKey],
    issue: Issue,
    path: str,
) -> None:
    """Not even an owner learns, or reaches, anything of another team by its ids."""
    theirs, _ = issue(charlie, "theirs", team=other_team)
    client = sign_in(alice)
    texts = []
    for public_id in (theirs.public_id, "00000000"):
        for response in (
            client.get(path, {"keys": public_id}),
            client.post(path, {"keys": public_id}),
        ):
            assert response.status_code == 404
            texts.append(response.content.decode().partition("<article")[2].partition("</art")[0])
    assert len(set(texts)) == 1
    after = client.post(path, {"keys": [theirs.public_id, keys[0].public_id]}, follow=True)
    assert "1 key is" in after.content.decode()
    theirs.refresh_from_db()
    assert theirs.disabled_at is None


def test_too_many_keys_at_once_are_refused(
    sign_in: SignIn, bob: User, keys: list[ApiKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MAX_KEYS", 2)
    assert sign_in(bob).post(DELETE, chosen(keys)).status_code == 400
    assert ApiKey.objects.count() == 3


# The list.


def test_list_has_checkboxes_only_for_changeable_keys(
    sign_in: SignIn, alice: User, bob: User, vera: User, keys: list[ApiKey], issue: Issue
) -> None:
    hers, _ = issue(alice, "hers")
    box = 'type="checkbox" name="keys" value="{}" form="picked"'
    pages = {user: sign_in(user).get(KEYS).content.decode() for user in (alice, bob, vera)}
    for user, expected in ((alice, (True, True)), (bob, (True, False)), (vera, (False, False))):
        offered = tuple(box.format(key.public_id) in pages[user] for key in (keys[0], hers))
        assert offered == expected
        assert (DELETE in pages[user]) is expected[0]
