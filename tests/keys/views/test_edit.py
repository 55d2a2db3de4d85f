"""Changing a key in the portal: what each form does, and who may not."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import disable, hand_over
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.leaks import handling
from keyportal.leaks.reports import ReportContents, ReportedKey
from keyportal.teams.models import Membership, Team, User
from keyportal.teams.policy import Policy
from tests.support.cases import case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]

# Each view with a form that does something, as a browser sends it.
FORMS: dict[str, dict[str, object]] = {
    "permissions": {"scope": "chosen", "patterns": "public/*", "endpoints": "chat"},
    "edit": {"name": "weekly", "description": "Runs on Sundays", "tags": "ci, batch"},
    "expiry": {"lifetime": "30"},
    "hand-over": {"owner": "ada"},
    "disable": {},
    "enable": {},
    "rotate": {"grace": "now"},
    "end-old": {},
}
ACTIONS = sorted(FORMS)


def address(key: ApiKey, action: str) -> str:
    return f"{KEYS}{key.public_id}/{action}/"


def form_of(action: str) -> dict[str, object]:
    form = FORMS[action]
    if action == "hand-over":
        return {"owner": User.objects.get(username="ada").pk}
    return form


def state(key: ApiKey) -> list[Any]:
    """All that is kept of a key and its secrets, and how much was told of it."""
    found = [
        *ApiKey.objects.filter(pk=key.pk).values(),
        *Secret._base_manager.filter(key=key).values(),
    ]
    return [*found, AuditEvent.objects.for_key(key.public_id).count()]


def audit_target(key: ApiKey, action: Action) -> str:
    event = AuditEvent.objects.for_key(key.public_id).get(action=action)
    assert (event.actor, event.address) == ("bob", "127.0.0.1")
    return event.target


# Each of them alike. `tests/test_isolation.py` requests them as outsiders and as viewers.


def test_dialog_is_a_fragment_for_htmx_and_a_page_without(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "<script>nightly")
    client = sign_in(bob)
    before = state(key)
    for action in ACTIONS:
        path = address(key, action)
        page, fragment = client.get(path), client.get(path, headers=HTMX)
        with case(action):
            assert page.content.lstrip().startswith(b"<!doctype html>")
            assert fragment.content.lstrip().startswith(b"<article id=")
            for response in (page, fragment):
                assert response.status_code == 200
                assert "HX-Request" in response["Vary"]
                assert "&lt;script&gt;nightly" in response.content.decode()
                assert "<script>nightly" not in response.content.decode()
            assert f'hx-post="{path}"' in fragment.content.decode()
            assert f'hx-post="{path}"' not in page.content.decode()
    assert state(key) == before


def test_success_closes_the_dialog_or_redirects_to_the_key(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    client = sign_in(bob)
    for action in sorted(FORMS.keys() - {"rotate"}):
        first, _ = issue(bob, f"<b>first {action}")
        fragment = client.post(address(first, action), form_of(action), headers=HTMX)
        second, _ = issue(bob, f"<b>second {action}")
        named = {"name": "<b>renamed"} if action == "edit" else {}
        page = client.post(address(second, action), form_of(action) | named, follow=True)
        with case(action):
            assert fragment.status_code == 204
            events = json.loads(fragment["HX-Trigger"])
            assert [*events] == ["keys-changed", "dialog-close", "show-message"]
            assert events["show-message"]
            assert page.redirect_chain == [(f"{KEYS}{second.public_id}/", 302)]
            assert 'class="message success" role="status"' in page.content.decode()
            assert "<b>second" not in page.content.decode()


def test_member_cannot_change_keys_of_others(
    sign_in: SignIn, alice: User, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    client, before = sign_in(bob), state(key)
    for action in ACTIONS:
        path, form = address(key, action), form_of(action)
        with case(action):
            for response in (client.get(path), client.post(path, form)):
                assert response.status_code == 403
                assert "belongs to someone else" in response.content.decode()
            assert state(key) == before


def test_viewer_is_refused_with_the_reason(
    sign_in: SignIn, ada: User, vera: User, issue: Issue
) -> None:
    key, _ = issue(ada)
    ApiKey.objects.update(owner=vera)
    response = sign_in(vera).post(address(key, "enable"))
    assert response.status_code == 403
    assert "This needs the role Member" in response.content.decode()


def test_deleted_key_shows_a_message(sign_in: SignIn, ada: User, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "nightly")
    paths = {action: address(key, action) for action in ACTIONS}
    key.revoke(actor=bob)
    client = sign_in(bob)
    for action, path in paths.items():
        response = client.post(path, form_of(action), headers=HTMX)
        with case(action):
            assert response.status_code == 404
            assert response.content.lstrip().startswith(b'<article id="gone"')
            assert f"{KEYS}{key.public_id}/receipt/" in response.content.decode()


def test_admin_changes_the_key_of_another(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    client = sign_in(ada)
    for action in ACTIONS:
        key, _ = issue(bob, action)
        if action == "enable":
            ApiKey.objects.update(disabled_at=timezone.now(), disabled_by="owner")
        before = state(key)
        response = client.post(address(key, action), form_of(action))
        with case(action):
            assert response.status_code in {200, 302}
            assert (state(key) != before) or action == "end-old"  # There is no old one.


# What it may do.


def test_narrowed_permissions_are_saved_and_audited(
    sign_in: SignIn, bob: User, model: ServedModel, issue: Issue
) -> None:
    key, _ = issue(bob)
    form = {
        "scope": "chosen",
        "models": [model.name],
        "patterns": "public/*\r\n  public/x, other\r\n",
        "endpoints": "embeddings",
        "networks": "192.0.2.0/24\r\n2001:db8::1",
    }
    assert sign_in(bob).post(address(key, "permissions"), form, headers=HTMX).status_code == 204
    key.refresh_from_db()
    models = ("other", "public/*", "public/x", model.name)
    networks = ("192.0.2.0/24", "2001:db8::1/128")
    assert key.permissions == Permissions(models, Endpoints.EMBEDDINGS, networks)
    text = " ".join(
        AuditEvent.objects.for_key(key.public_id)
        .filter(action=Action.KEY_CHANGED)
        .values_list("target", flat=True)
    )
    for text_of_change in ("Models: all → other public/* public/x", "Endpoints: all → embeddings"):
        assert text_of_change in text


def test_form_shows_the_current_permissions(
    sign_in: SignIn, bob: User, model: ServedModel, issue: Issue
) -> None:
    now = Permissions(("public/*", model.name), Endpoints.CHAT, ("192.0.2.0/24",))
    key, _ = issue(bob, permissions=now)
    client = sign_in(bob)
    response = client.get(address(key, "permissions"), headers=HTMX)
    form = response.context["form"]
    assert [form[name].value() for name in ("scope", "models", "patterns")] == [
        "chosen",
        [model.name],
        "public/*",
    ]
    sent = {name: form[name].value() for name in form.fields}
    assert client.post(address(key, "permissions"), sent, headers=HTMX).status_code == 204
    key.refresh_from_db()
    assert key.permissions == now
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_choosing_all_models_clears_the_list(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, actor=bob, permissions=Permissions(("public/*",)))
    form = {"scope": "all", "patterns": "public/*", "endpoints": "all"}
    assert sign_in(bob).post(address(key, "permissions"), form).status_code == 302
    key.refresh_from_db()
    assert key.permissions == Permissions()


def test_invalid_permissions_are_errors_in_the_dialog(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    client, before = sign_in(bob), state(key)
    for typed, message in (
        ({"patterns": ""}, "Choose a model or enter a pattern."),
        ({"patterns": "a*b*c*d*e"}, "has more than three stars."),
        ({"networks": "192.0.2.1/24"}, "did you mean 192.0.2.0/24?"),
        ({"networks": "home"}, "is not an address or a network"),
        ({"models": ["foreign/model"]}, "is not one of the available choices"),
        ({"endpoints": "everything"}, "is not one of the available choices"),
        ({"scope": "nonsense"}, "is not one of the available choices"),
    ):
        form = FORMS["permissions"] | typed
        response = client.post(address(key, "permissions"), form, headers=HTMX)
        with case(typed):
            assert response.status_code == 422
            assert message in response.content.decode()
            assert state(key) == before


def test_models_of_other_teams_are_not_offered(
    sign_in: SignIn, bob: User, other_team: Team, model: ServedModel, issue: Issue
) -> None:
    ServedModel.objects.create(name="u-0000000000cc/secret", team=other_team)
    key, _ = issue(bob)
    text = sign_in(bob).get(address(key, "permissions")).content.decode()
    assert model.name in text
    assert "u-0000000000cc/secret" not in text


def test_policy_violation_is_an_error_in_the_dialog(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    rules = Policy(models=("public/*",), name_pattern="ci-*", max_lifetime_days=30)
    Team.objects.update(policy=rules)
    key, _ = issue(bob, "ci-1", actor=bob, expires_at=timezone.now() + timedelta(days=9))
    client = sign_in(bob)
    for action, form, message in (
        (
            "permissions",
            {"scope": "chosen", "patterns": "other/x", "endpoints": "all"},
            "may only call",
        ),
        ("edit", {"name": "nightly"}, "must match ci-*"),
        ("expiry", {"lifetime": "date", "expiry_date": in_days(60)}, "within 30 days"),
        ("expiry", {"lifetime": "never"}, "not one of the available choices"),
    ):
        response = client.post(address(key, action), form, headers=HTMX)
        assert response.status_code == 422
        assert message in response.content.decode()


# What it is called.


def test_name_description_and_tags_are_changed_and_audited(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "nightly")
    form = {"name": " weekly ", "description": "One\r\nTwo ", "tags": "ci, , Batch CI"}
    assert sign_in(bob).post(address(key, "edit"), form, headers=HTMX).status_code == 204
    key.refresh_from_db()
    assert (key.name, key.description, key.tags) == ("weekly", "One\nTwo", ["ci", "Batch"])
    text = audit_target(key, Action.KEY_CHANGED)
    assert "Name: nightly → weekly" in text
    assert "Tags: none → ci, Batch" in text


def test_key_string_in_a_text_field_is_refused(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob)
    client, before = sign_in(bob), state(key)
    for action, typed in (
        ("edit", {"name": f"x {plaintext}"[:64]}),
        ("edit", {"description": plaintext}),
        ("edit", {"tags": plaintext}),
        ("permissions", {"patterns": plaintext}),
        ("permissions", {"networks": plaintext}),
    ):
        response = client.post(address(key, action), FORMS[action] | typed, headers=HTMX)
        with case(action, *typed):
            assert response.status_code == 422
            assert "Never put a key" in response.content.decode()
            assert state(key) == before


def test_invalid_edit_shows_an_error_and_changes_nothing(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    issue(bob, "taken")
    key, _ = issue(bob, "nightly")
    client, before = sign_in(bob), state(key)
    for typed, message in (
        ({"name": ""}, "Give the key a name."),
        ({"name": "taken"}, "A key with this name already exists in the team."),
        ({"name": "a\u202eb"}, "printable characters"),
        ({"description": "a\u202eb"}, "printable characters"),
        ({"description": "x" * 501}, "at most 500 characters"),
        ({"tags": "a\u200bb"}, "printable characters"),
        ({"tags": "x" * 33}, "longer than 32 characters"),
        ({"tags": " ".join("abcdefghijklmnopqrstu")}, "At most 20 tags."),
    ):
        response = client.post(address(key, "edit"), FORMS["edit"] | typed, headers=HTMX)
        with case(typed):
            assert response.status_code == 422
            assert message in response.content.decode()
            assert state(key) == before


def test_markup_in_name_description_and_tags_is_escaped(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    markup = "<script>alert(1)</script>"
    client = sign_in(bob)
    form = {"name": markup, "description": markup, "tags": "<script>x"}
    page = client.post(address(key, "edit"), form, follow=True).content.decode()
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3
    assert "<script>alert" not in page
    assert "<script>x" not in page
    for action in ACTIONS:
        assert "<script>alert" not in client.get(address(key, action)).content.decode()


# When it ends.


def in_days(count: int) -> str:
    return str(timezone.now().date() + timedelta(days=count))


def test_expiry_is_set_changed_and_removed(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    ends = []
    for form in (
        {"lifetime": "date", "expiry_date": in_days(5)},
        {"lifetime": "7"},
        {"lifetime": "never"},
    ):
        assert client.post(address(key, "expiry"), form, headers=HTMX).status_code == 204
        key.refresh_from_db()
        ends.append(key.expires_at)
    assert str(ends[0]) == f"{in_days(5)} 23:59:59+00:00"
    assert ends[1]
    assert ends[1].date() == timezone.now().date() + timedelta(days=7)
    assert ends[2] is None
    events = AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_CHANGED)
    assert "Expires: none" in events.earliest("pk").target
    assert events.latest("pk").target.endswith("→ none")


def test_saving_the_same_day_keeps_the_time_of_expiry(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    end = datetime(timezone.now().year + 1, 5, 6, 7, 8, 9, tzinfo=UTC)
    key, _ = issue(bob, expires_at=end)
    client = sign_in(bob)
    form = client.get(address(key, "expiry"), headers=HTMX).context["form"]
    assert form["lifetime"].value() == "date"
    sent = {"lifetime": "date", "expiry_date": f"{end:%Y-%m-%d}"}
    assert client.post(address(key, "expiry"), sent, headers=HTMX).status_code == 204
    key.refresh_from_db()
    assert key.expires_at == end
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_expired_key_needs_a_new_day(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, actor=bob, expires_at=timezone.now() - timedelta(days=2))
    client = sign_in(bob)
    assert "expired at" in client.get(address(key, "expiry"), headers=HTMX).content.decode()
    sent = {"lifetime": "date", "expiry_date": in_days(-2)}
    assert client.post(address(key, "expiry"), sent, headers=HTMX).status_code == 422
    assert client.post(address(key, "expiry"), {"lifetime": "7"}).status_code == 302
    key.refresh_from_db()
    assert not key.has_expired


def test_expired_key_set_to_today_expires_at_the_end_of_the_day(
    sign_in: SignIn, bob: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended today, at noon: who types today means the end of the day."""
    noon = datetime(timezone.now().year + 1, 5, 6, 12, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: noon + timedelta(hours=1))
    monkeypatch.setattr(ApiKey, "has_expired", True)  # By the clock of the database.
    key, _ = issue(bob, actor=bob, expires_at=noon)
    client, path = sign_in(bob), address(key, "expiry")
    opened = client.get(path, headers=HTMX)
    assert "expired at" in opened.content.decode()
    typed = form_data(opened, lifetime="date", expiry_date=f"{noon:%Y-%m-%d}")
    assert client.post(path, typed, headers=HTMX).status_code == 204
    key.refresh_from_db()
    assert key.expires_at == noon.replace(hour=23, minute=59, second=59)


# Whose it is.


def test_key_belongs_to_the_new_owner_after_a_hand_over(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    assert client.post(address(key, "hand-over"), {"owner": ada.pk}).status_code == 302
    key.refresh_from_db()
    assert key.owner == ada
    assert "bob → ada" in audit_target(key, Action.KEY_HANDED_OVER)
    assert client.get(address(key, "edit")).status_code == 403


@pytest.mark.parametrize("headers", [HTMX, {}], ids=["htmx", "page"])
def test_outdated_hand_over_changes_nothing(
    sign_in: SignIn, ada: User, alice: User, bob: User, issue: Issue, headers: dict[str, str]
) -> None:
    key, _ = issue(bob)
    client, path = sign_in(ada), address(key, "hand-over")
    opened = client.get(path, headers=headers)
    hand_over(key, alice, actor=alice)
    refused = client.post(path, form_data(opened, owner=str(ada.pk)), headers=headers)
    assert refused.status_code == 409
    assert "Changed since you opened this page: owner." in refused.content.decode()
    assert ApiKey.objects.get().owner == alice
    again = client.post(path, form_data(refused, owner=str(ada.pk)), headers=headers)
    assert again.status_code in (204, 302)
    assert ApiKey.objects.get().owner == ada


def test_only_members_who_can_own_keys_are_offered(
    sign_in: SignIn, alice: User, bob: User, vera: User, charlie: User, ada: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    User.objects.filter(pk=ada.pk).update(is_active=False)
    client = sign_in(bob)
    form = client.get(address(key, "hand-over")).context["form"]
    assert [*form.fields["owner"].queryset] == [alice]
    for user in (vera, charlie, ada, bob):
        response = client.post(address(key, "hand-over"), {"owner": user.pk}, headers=HTMX)
        assert response.status_code == 422
        assert "Choose a member of this team who can own keys" in response.content.decode()
    key.refresh_from_db()
    assert key.owner == bob


def test_hand_over_to_a_member_at_the_key_limit_is_refused(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    issue(ada, "hers")
    key, _ = issue(bob)
    Team.objects.update(policy=Policy(max_keys_per_member=1))
    response = sign_in(bob).post(address(key, "hand-over"), {"owner": ada.pk}, headers=HTMX)
    assert response.status_code == 422
    assert "at most 1 keys" in response.content.decode()


def test_dialog_says_if_there_is_no_other_member(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    text = sign_in(bob).get(address(key, "hand-over"), headers=HTMX).content.decode()
    assert "No other member of Acme can own" in text
    assert "<select" not in text


# Whether it works.


def test_key_is_disabled_and_enabled_again(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    for _ in range(2):
        assert client.post(address(key, "disable"), headers=HTMX).status_code == 204
    key.refresh_from_db()
    assert key.disabled_at
    assert audit_target(key, Action.KEY_DISABLED)
    assert f'action="{address(key, "enable")}"' in (
        client.get(f"{KEYS}{key.public_id}/").content.decode()
    )
    for _ in range(2):
        assert client.post(address(key, "enable"), headers=HTMX).status_code == 204
    assert ApiKey.objects.get(disabled_at=None) == key
    assert audit_target(key, Action.KEY_ENABLED)


def test_leaked_key_has_a_banner_with_a_link_to_rotate(
    sign_in: SignIn, bob: User, vera: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    ApiKey.objects.update(reported_at=timezone.now())
    path = f"{KEYS}{key.public_id}/"
    assert "Rotate now" in sign_in(bob).get(path).content.decode()
    text = sign_in(vera).get(path).content.decode()
    assert "This key was reported as leaked" in text
    assert "/rotate/" not in text


ANYWAY = "Enable anyway"


def test_enabling_a_leaked_key_requires_a_confirmation(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    disable(key, actor=bob)
    client, path = sign_in(bob), address(key, "enable")
    page = f"{KEYS}{key.public_id}/"
    # At first it is enabled with one click. That page is still open when the key is reported.
    opened = client.get(page)
    assert f'method="post" action="{path}"' in opened.content.decode()
    handling.handle_report(ReportContents([ReportedKey(text)]))
    assert f'method="post" action="{path}"' not in client.get(page).content.decode()
    before = state(key)
    for headers in (HTMX, {}):
        dialog = client.get(path, headers=headers)
        refused = client.post(path, headers=headers)
        assert (dialog.status_code, refused.status_code) == (200, 422)
        for response in (dialog, refused):
            text = response.content.decode()
            assert "anyone who has this secret can make calls" in text
            assert "and the key works again at once" not in text  # Its owner had disabled it.
            assert text.index(ANYWAY) < text.index("Rotate instead")
            assert 'class="secondary danger" type="submit" form="enable-form"' in text
    assert state(key) == before
    done = client.post(path, form_data(refused), follow=True)
    assert done.redirect_chain == [(page, 302)]
    key.refresh_from_db()
    assert key.disabled_at is None
    assert key.reported_at is not None


def test_page_of_a_key_disabled_by_a_report_offers_rotation_first(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    handling.handle_report(ReportContents([ReportedKey(text)]))
    client = sign_in(bob)
    page = client.get(f"{KEYS}{key.public_id}/").content.decode()
    assert "Rotate it to end the leaked secret, and the key works again" in page
    assert 'class="primary" type="submit" id="open-rotate">Rotate<' in page
    assert 'class="secondary danger" type="submit" id="open-disable">Enable anyway<' in page
    assert 'title="It is refused until it is rotated."' in page
    dialog = client.get(address(key, "enable"), headers=HTMX).content.decode()
    assert "you get a new one, and the key works again at once" in dialog
    assert '<button type="submit" autofocus>Rotate instead</button>' in dialog


def test_owner_cannot_enable_a_leaked_managed_key(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, text = issue(bob)
    disable(key, actor=ada)
    handling.handle_report(ReportContents([ReportedKey(text)]))
    client = sign_in(bob)
    assert "Enable anyway" not in client.get(f"{KEYS}{key.public_id}/").content.decode()
    refused = client.post(address(key, "enable"), {"leak": "known"})
    assert refused.status_code == 403
    assert "An admin manages this key" in refused.content.decode()
    assert ANYWAY in sign_in(ada).get(address(key, "enable")).content.decode()


def test_user_who_left_the_team_meanwhile_changes_nothing(
    sign_in: SignIn, bob: User, ada: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    Membership.objects.filter(user=bob).delete()
    client = sign_in(bob)
    before = state(key)
    for action in FORMS:
        assert client.post(address(key, action), form_of(action)).status_code == 404
    assert state(key) == before
