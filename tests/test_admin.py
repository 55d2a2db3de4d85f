"""Django's admin for operators: access, forms, audit, and no secrets on any page."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection
from django.db.models import Model
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys.changes import Changes, change_key, disable, hand_over
from keyportal.keys.limits import set_key_limits
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.leaks import handling
from keyportal.leaks.reports import ReportContents, ReportedKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import PASSWORD
from tests.support.cases import case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]
CREDENTIAL = "the-upstreams-own-token"
# Models that are part of another page, or that only programs read and write.
WITHOUT_PAGE = {
    "catalog.CatalogVersion",
    "catalog.WorkerHealth",
    # Operators have pages for them in the portal.
    "catalog.Alias",
    "teams.StoredProvider",
    "teams.UsedSlug",
    "people.Invitation",  # Admins of a team have a page for them in the portal.
    # People end theirs on pages of their own.
    "teams.Session",
    "keys.ProgramSignIn",
    # The company's directory changes them.
    "api.ProvisionedUser",
    "api.ProvisionedGroup",
    *(f"keys.{name}" for name in ("KeyTemplate", "Secret", "SpentNonce")),
    *("notifications.Reminder", "scheduler.ScheduledJob", "audit.DeletedUser"),
    "notifications.QueuedMail",  # It may hold a link that resets a password.
    *(f"usage.{name}" for name in ("Call", "UsageMinute", "UsageHour", "UsageDay", "Flush")),
    *(f"usage.{name}" for name in ("Window", "Lease", "RunningCalls", "EndRequest")),
    *(f"usage.{name}" for name in ("Sighting", "NetworkUse", "Alarm", "StoredResponse")),
}
OURS = ["teams", "audit", "usage", "catalog", "keys", "notifications", "people", "api", "scheduler"]
REGISTERED = sorted(admin.site._registry.items(), key=lambda pair: pair[0]._meta.label)


@pytest.fixture
def root(db: None) -> User:
    return User.objects.create_superuser("root", "root@example.com", PASSWORD)


@pytest.fixture
def operator(client: Client, root: User) -> Client:
    client.force_login(root)
    return client


@pytest.fixture
def upstream(model: ServedModel) -> Upstream:
    upstream = Upstream.objects.get()
    upstream.credential = CREDENTIAL
    upstream.save(update_fields=["encrypted_credential"])
    return upstream


def change_url(thing: Model, page: str = "change") -> str:
    return f"/admin/{thing._meta.app_label}/{thing._meta.model_name}/{thing.pk}/{page}/"


def every_page() -> Iterator[str]:
    """The address of every admin page that the data gives rise to."""
    yield "/admin/"
    for model, _ in REGISTERED:
        base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        yield from (base, f"{base}?q=test", f"{base}add/")
        if thing := model._default_manager.first():
            yield from (change_url(thing, kind) for kind in ("change", "history", "delete"))
        yield f"/admin/{model._meta.app_label}/"


def test_every_model_has_its_page() -> None:
    models = {model for app in OURS for model in apps.get_app_config(app).get_models()}
    missing = {model._meta.label for model in models if model not in admin.site._registry}
    assert missing == WITHOUT_PAGE


def test_no_page_shows_a_secret(
    operator: Client, bob: User, upstream: Upstream, issue: Issue
) -> None:
    gone, gone_text = issue(bob, "gone")
    digests = [bytes(stored.digest) for stored in Secret.objects.all()]
    gone.revoke(actor=bob)
    key, text = issue(bob, "test-key")
    digests += [bytes(stored.digest) for stored in Secret.objects.all()]
    hidden = [text[14:-4], gone_text[14:-4], CREDENTIAL, upstream.encrypted_credential]
    for digest in digests:
        hidden += [digest.hex(), str(digest)[2:-1]]
    page_count = 0
    for path in dict.fromkeys(every_page()):
        answer = operator.get(path, follow=True)
        assert answer.status_code in {200, 403}, path
        page_count += answer.status_code == 200
        page = answer.content.decode()
        assert not [secret for secret in hidden if secret in page], path
    assert page_count > 50
    # The walk sees keys at all.
    assert key.masked in operator.get("/admin/keys/apikey/").content.decode()


ADDED = {
    *("teams/user", "teams/team", "teams/membership"),
    *("catalog/upstream", "catalog/servedmodel", "catalog/route"),
}
NOT_ADDED = {"keys/apikey", "api/managementkey", "audit/auditevent", "audit/tombstone"}


def test_which_models_can_be_added(operator: Client) -> None:
    """`test_no_page_shows_a_secret` opens the forms."""
    index = operator.get("/admin/").content.decode()
    ours = {kind for kind in re.findall("/admin/([a-z/]+)/add/", index) if kind[:4] != "auth"}
    assert ours == ADDED
    for kind in NOT_ADDED:
        assert operator.get(f"/admin/{kind}/add/").status_code == 403


def test_staff_without_permissions_sees_nothing(client: Client, bob: User) -> None:
    User.objects.filter(pk=bob.pk).update(is_staff=True)
    client.force_login(bob)
    for model, _ in REGISTERED:
        page = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
        with case(page):
            assert client.get(page).status_code == 403
            assert client.get(f"{page}add/").status_code == 403


def test_staff_with_the_view_permission_can_only_view(
    client: Client, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    User.objects.filter(pk=bob.pk).update(is_staff=True)
    bob.user_permissions.add(Permission.objects.get(codename="view_apikey"))
    client.force_login(bob)
    assert key.masked in client.get(change_url(key)).content.decode()
    assert client.post(change_url(key), {"name": "other"}).status_code == 403
    assert client.post(change_url(key, "delete"), {"post": "yes"}).status_code == 403
    assert ApiKey.objects.get().name == "test-key"


# Sign-in.


def test_the_admin_redirects_to_our_sign_in(client: Client, db: None) -> None:
    for path in ("/admin/", "/admin/login/", "/admin/teams/user/"):
        answer = client.get(path, follow=True)
        assert answer.redirect_chain[-1][0].startswith("/accounts/login/?next=")
        assert answer.templates[0].name == "account/login.html"


def test_the_admins_own_form_takes_no_password(client: Client, root: User) -> None:
    client.post("/admin/login/", {"username": "root", "password": PASSWORD})
    assert client.get("/admin/").status_code == 302


def test_users_who_are_not_staff_are_refused(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get("/admin/", follow=True).status_code == 403


# Keys.


def key_form(key: ApiKey, **changed: object) -> dict[str, object]:
    """The fields of a POST that changes one thing on the page of a key."""
    form: dict[str, object] = {"name": key.name, "owner": key.owner_id, "allowed_models": []}
    form |= {f"{field}_{part}": "" for field in ("expires_at", "disabled_at") for part in (0, 1)}
    form |= {"secrets-TOTAL_FORMS": "0", "secrets-INITIAL_FORMS": "0"}
    return form | changed


def test_a_changed_key_is_audited_with_the_old_values(
    operator: Client, team: Team, alice: User, bob: User, model: ServedModel, issue: Issue
) -> None:
    key, _ = issue(bob)
    form = key_form(key, name="ci", owner=alice.pk, allowed_models=[model.name])
    answer = operator.post(change_url(key), form, REMOTE_ADDR="192.0.2.1")
    assert answer.status_code == 302
    key.refresh_from_db()
    assert (key.name, key.owner, key.allowed_models) == ("ci", alice, [model.name])
    assert key.is_managed
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_CHANGED)
    assert row.target == (
        f"test-key ({key.public_id}): Name: test-key → ci, Owner: bob → alice, "
        f"Models: all → {model.name}"
    )
    assert (row.actor, row.address) == ("root", "192.0.2.1")


def test_a_key_whose_expiry_an_operator_set_is_managed(
    operator: Client, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, actor=bob)
    form = key_form(key, expires_at_0="2199-01-02", expires_at_1="03:04:05")
    assert operator.post(change_url(key), form).status_code == 302
    key.refresh_from_db()
    assert (key.expires_at is not None, key.is_managed) == (True, True)


def test_disabling_a_key_is_audited(operator: Client, team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    operator.post(
        change_url(key), key_form(key, disabled_at_0="2026-01-02", disabled_at_1="03:04:05")
    )
    key.refresh_from_db()
    assert key.disabled_at is not None
    assert key.disabled_by == ApiKey.DisabledBy.ADMIN
    assert key.is_managed  # Its owner doesn't undo what an operator did.
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_CHANGED)
    assert row.target.endswith(": Disabled: none → 2026-01-02 03:04 UTC")


def test_a_key_that_is_enabled_is_still_managed(operator: Client, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    disable(key, actor=None)
    form = form_data(operator.get(change_url(key)), disabled_at_0="", disabled_at_1="")
    assert operator.post(change_url(key), form).status_code == 302
    key.refresh_from_db()
    assert (key.disabled_at, key.disabled_by, key.is_managed) == (None, "", True)


def test_an_operator_who_disables_their_own_key_acts_as_owner(
    operator: Client, root: User, team: Team, issue: Issue
) -> None:
    Membership.objects.create(team=team, user=root, role=Role.MEMBER)
    key, _ = issue(root)
    form = key_form(key, disabled_at_0="2026-01-02", disabled_at_1="03:04:05")
    assert operator.post(change_url(key), form).status_code == 302
    key.refresh_from_db()
    assert key.disabled_by == ApiKey.DisabledBy.OWNER
    assert not key.is_managed


def test_saving_a_key_unchanged_is_no_event(operator: Client, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    assert operator.post(change_url(key), key_form(key)).status_code == 302
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_an_invalid_change_of_a_key_is_refused(
    operator: Client, bob: User, charlie: User, issue: Issue
) -> None:
    issue(bob, "taken")
    key, _ = issue(bob)
    for field, value, message in (
        ("name", "taken", "already exists"),
        ("name", "a\u202eb", "printable"),
        ("owner", charlie.pk, "valid choice"),
        ("allowed_models", "public/unknown", "valid choice"),
        ("limits_tokens_per_day", "0", "Tokens per day: "),
    ):
        with case(field, value):
            answer = operator.post(change_url(key), key_form(key, **{field: value}))
            assert answer.status_code == 200
            assert message in answer.content.decode()
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


def test_a_key_whose_owner_has_left_can_still_be_disabled(
    operator: Client, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    Membership.objects.filter(user=bob).delete()
    form = key_form(key, disabled_at_0="2026-01-02", disabled_at_1="03:04:05")
    assert operator.post(change_url(key), form).status_code == 302
    assert ApiKey.objects.get().disabled_at is not None


def test_deleting_a_key_revokes_it(
    operator: Client, root: User, team: Team, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    operator.post(change_url(key, "delete"), {"post": "yes"}, REMOTE_ADDR="192.0.2.1")
    assert not ApiKey.objects.exists()
    assert Tombstone.objects.get().deleted_by_id == root.pk
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_DELETED)
    assert (row.actor, row.address) == ("root", "192.0.2.1")


def test_deleting_many_keys_revokes_each(
    operator: Client, team: Team, bob: User, issue: Issue
) -> None:
    keys = [issue(bob, name)[0] for name in ("one", "two", "three")]
    data = {
        "action": "delete_selected",
        "_selected_action": [key.pk for key in keys[:2]],
        "post": "yes",
    }
    operator.post("/admin/keys/apikey/", data)
    assert ApiKey.objects.get() == keys[2]
    assert Tombstone.objects.count() == 2
    assert AuditEvent.objects.for_team(team).filter(action=Action.KEY_DELETED).count() == 2


def test_a_team_or_user_with_keys_cannot_be_deleted(
    operator: Client, bob: User, team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    for keeper in (team, bob):
        url = change_url(keeper, "delete")
        assert str(key) in operator.get(url).content.decode()
        operator.post(url, {"post": "yes"})
        assert ApiKey.objects.get() == key


LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "requests_per_day",
    "tokens_per_day",
    "requests_per_month",
    "tokens_per_month",
    "parallel_requests",
)


def limits_form(field: str, **limits: object) -> dict[str, object]:
    return {f"{field}_{name}": limits.get(name, "") for name in LIMITS}


def test_a_key_that_an_operator_limits_is_managed(
    operator: Client, team: Team, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, limits=Limits(tokens_per_day=5))
    page = operator.get(change_url(key))
    assert '<label for="id_limits_3">Tokens per day</label>' in page.content.decode()
    form = form_data(page, limits_requests_per_minute="60", limits_tokens_per_day="")
    assert operator.post(change_url(key), form).status_code == 302
    key.refresh_from_db()
    assert key.limits == Limits(requests_per_minute=60)
    assert key.is_managed
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_CHANGED)
    changes = "Requests per minute: none → 60, Tokens per day: 5 → none"
    assert row.target == f"test-key ({key.public_id}): {changes}"


def test_a_form_without_limits_keeps_them(operator: Client, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, limits=Limits(tokens_per_day=5))
    assert operator.post(change_url(key), key_form(key, name="ci")).status_code == 302
    key.refresh_from_db()
    assert (key.name, key.limits) == ("ci", Limits(tokens_per_day=5))


# A stale page: the row was changed after the page was opened.


def require_conflict(answer: Any, *names: str) -> None:
    """Assert that nothing was saved and that the page has the reason."""
    assert answer.status_code == 200
    text = answer.content.decode()
    assert f"Changed since you opened this page: {', '.join(names)}." in text
    assert '<a href="">Reload the page</a>' in text


def test_a_stale_page_restores_neither_a_role_nor_a_permission(
    operator: Client, team: Team, ada: User
) -> None:
    right = Permission.objects.get(codename="change_apikey")
    ada.user_permissions.add(right)
    membership = Membership.objects.get(user=ada)
    addresses = [
        f"/admin/teams/user/{ada.pk}/change/",
        f"/admin/teams/team/{team.pk}/change/",
        f"/admin/teams/membership/{membership.pk}/change/",
    ]
    pages = [operator.get(address) for address in addresses]
    Membership.objects.filter(user=ada).update(role=Role.VIEWER)
    ada.user_permissions.clear()
    typed: list[dict[str, str]] = [{"first_name": "Ada"}, {"name": "Acme & Co"}, {}]
    for address, page, changed in zip(addresses, pages, typed, strict=True):
        require_conflict(operator.post(address, form_data(page, **changed)), "role")
        assert Membership.objects.get(user=ada).role == Role.VIEWER
        assert not ada.user_permissions.exists()
    team.refresh_from_db()
    assert (team.name, User.objects.get(pk=ada.pk).first_name) == ("Acme", "")
    operator.post(addresses[2], form_data(operator.get(addresses[2]), role="admin"))
    assert Membership.objects.get(user=ada).role == Role.ADMIN


def test_a_stale_page_does_not_reactivate_a_user_or_team(
    operator: Client, team: Team, bob: User
) -> None:
    addresses = [f"/admin/teams/user/{bob.pk}/change/", f"/admin/teams/team/{team.pk}/change/"]
    pages = [operator.get(address) for address in addresses]
    User.objects.filter(pk=bob.pk).update(is_active=False)
    Team.objects.update(is_active=False, max_keys=3)
    typed = {"first_name": "Robert"}, {"name": "Acme & Co"}
    changed = ["active"], ["max keys", "is active"]
    for address, page, fields, names in zip(addresses, pages, typed, changed, strict=True):
        require_conflict(operator.post(address, form_data(page, **fields)), *names)
    bob.refresh_from_db()
    team.refresh_from_db()
    assert (bob.first_name, bob.is_active) == ("", False)
    assert (team.name, team.is_active, team.max_keys) == ("Acme", False, 3)
    # Opened again, it is saved.
    for address, fields in zip(addresses, typed, strict=True):
        assert operator.post(address, form_data(operator.get(address), **fields)).status_code == 302
    bob.refresh_from_db()
    assert (bob.first_name, bob.is_active) == ("Robert", False)
    assert bob.password not in pages[0].content.decode()


def test_changes_of_a_team_are_audited(operator: Client, root: User, team: Team) -> None:
    page = operator.get(change_url(team))
    typed = {"limits_tokens_per_day": "4", "key_limits_requests_per_day": "3", "max_keys": "7"}
    assert operator.post(change_url(team), form_data(page, **typed)).status_code == 302
    rows = AuditEvent.objects.for_team(team).filter(action=Action.TEAM_CHANGED).order_by("pk")
    assert {(row.actor, row.address) for row in rows} == {(root.get_username(), "127.0.0.1")}
    assert [row.target for row in rows] == [
        "Team: Max keys: 20 → 7",
        "Limits of the team: Tokens per day: none → 4",
        "Limits of new keys: Requests per day: none → 3",
    ]


def test_a_stale_page_does_not_enable_a_leaked_key(
    operator: Client, team: Team, bob: User, issue: Issue
) -> None:
    """Nothing stands in its "disabled at"."""
    key, text = issue(bob)
    page = operator.get(change_url(key))
    handling.handle_report(ReportContents([ReportedKey(text)]))
    require_conflict(operator.post(change_url(key), form_data(page, name="ci")), "disabled at")
    key.refresh_from_db()
    assert (key.name, key.disabled_by) == ("test-key", "leak")
    assert not AuditEvent.objects.for_team(team).filter(action=Action.KEY_CHANGED).exists()
    cleared = form_data(operator.get(change_url(key)), disabled_at_0="", disabled_at_1="")
    assert operator.post(change_url(key), cleared).status_code == 302
    assert ApiKey.objects.get().disabled_at is None


def test_a_conflict_names_all_changed_fields(
    operator: Client, bob: User, ada: User, alice: User, model: ServedModel, issue: Issue
) -> None:
    key, _ = issue(bob, limits=Limits(requests_per_day=9, tokens_per_day=5))
    page = operator.get(change_url(key))
    narrow = Permissions((model.name,), Endpoints.CHAT, ("10.0.0.0/8",))
    change_key(key, Changes(name="nightly", permissions=narrow), actor=ada)
    hand_over(key, alice, actor=ada)
    set_key_limits(key, Limits(requests_per_day=1, tokens_per_day=5), actor=ada)
    before = ApiKey.objects.values().get()
    answer = operator.post(change_url(key), form_data(page, limits_tokens_per_day="4"))
    names = "owner", "name", "is managed", "allowed models", "limits"
    require_conflict(answer, *names)
    assert ApiKey.objects.values().get() == before
    again = form_data(operator.get(change_url(key)), limits_tokens_per_day="4")
    assert operator.post(change_url(key), again).status_code == 302
    key.refresh_from_db()
    assert key.limits == Limits(requests_per_day=1, tokens_per_day=4)
    assert key.permissions == narrow


def test_an_operator_can_manage_a_key_and_release_it(
    operator: Client, team: Team, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    for is_managed, action in ((True, Action.KEY_MANAGED), (False, Action.KEY_UNMANAGED)):
        form = form_data(operator.get(change_url(key)), is_managed="on" if is_managed else "")
        if not is_managed:
            del form["is_managed"]
        assert operator.post(change_url(key), form).status_code == 302
        key.refresh_from_db()
        assert key.is_managed is is_managed
        row = AuditEvent.objects.for_team(team).latest("pk")
        assert (row.action, row.actor, row.target) == (action, "root", str(key))
    # Both at once: disabled, and no longer managed.
    disabled = {"disabled_at_0": "2026-01-02", "disabled_at_1": "03:04:05", "is_managed": "on"}
    assert operator.post(change_url(key), key_form(key, **disabled)).status_code == 302
    assert AuditEvent.objects.for_team(team).with_action(Action.KEY_MANAGED).count() == 2


def test_saving_an_unchanged_page_changes_nothing(
    operator: Client, bob: User, model: ServedModel, issue: Issue
) -> None:
    now = timezone.now()
    key, _ = issue(
        bob,
        expires_at=now + timedelta(days=9),
        permissions=Permissions((model.name,)),
        limits=Limits(tokens_per_day=5),
    )
    ApiKey.objects.update(disabled_at=now, disabled_by="owner")
    before = ApiKey.objects.values().get()
    form = form_data(operator.get(change_url(key)))
    assert operator.post(change_url(key), form).status_code == 302
    assert ApiKey.objects.values().get() == before
    assert not AuditEvent.objects.filter(action=Action.KEY_CHANGED).exists()


# Upstreams.


def upstream_form(**changed: str) -> dict[str, str]:
    return {
        "name": "loopback",
        "base_url": "loopback:",
        "credential_header": "authorization",
        "connect_timeout": "5",
        "first_byte_timeout": "600",
        "read_timeout": "600",
    } | changed


def save_upstream(operator: Client, upstream: Upstream, **changed: str) -> Upstream:
    assert operator.post(change_url(upstream), upstream_form(**changed)).status_code == 302
    return Upstream.objects.get(pk=upstream.pk)


def test_a_credential_is_kept_replaced_or_forgotten(operator: Client, upstream: Upstream) -> None:
    saved = save_upstream(operator, upstream, read_timeout="60", credential="")
    assert (saved.read_timeout, saved.credential) == (60, CREDENTIAL)
    assert save_upstream(operator, upstream, credential="another").credential == "another"
    assert save_upstream(operator, upstream, forget_credential="on").credential == ""


def test_a_new_address_never_gets_the_old_credential(operator: Client, upstream: Upstream) -> None:
    form = upstream_form(base_url="http://127.0.0.1:9/v1")
    refused = operator.post(change_url(upstream), form)
    assert "enter its credential again" in refused.content.decode()
    assert Upstream.objects.get().base_url == "loopback:"
    saved = save_upstream(operator, upstream, **form, credential=CREDENTIAL)
    assert (saved.base_url, saved.credential) == ("http://127.0.0.1:9/v1", CREDENTIAL)
    saved = save_upstream(operator, upstream, base_url="http://127.0.0.1:10", forget_credential="1")
    assert (saved.base_url, saved.credential) == ("http://127.0.0.1:10/v1", "")
    assert save_upstream(operator, upstream).base_url == "loopback:"


def test_a_bad_upstream_is_refused(operator: Client, upstream: Upstream) -> None:
    changes: list[dict[str, str]] = [
        {"credential": "new", "forget_credential": "on"},
        {"credential": "two\r\nlines"},
        {"base_url": "http://169.254.169.254/v1"},
        {"read_timeout": "0"},
        {"credential_header": "cookie"},
        {"headers": "Content-Length: 0"},
        {"headers": "X-Org: ours", "forget_headers": "on"},
        {"headers": "Authorization: Basic YTpi"},  # The credential is sent in it.
        {"base_url": "https://127.0.0.1:9", "ca_file": "/nowhere/ca.pem", "credential": "new"},
    ]
    for changed in changes:
        with case(changed):
            answer = operator.post(change_url(upstream), upstream_form(**changed))
            assert answer.status_code == 200
            assert "errorlist" in answer.content.decode()
            assert Upstream.objects.get().credential == CREDENTIAL


def test_headers_of_an_upstream_are_stored_encrypted_and_never_shown(
    operator: Client, upstream: Upstream
) -> None:
    lines = "X-Org: a-secret-of-theirs\r\nX-Project: another"
    saved = save_upstream(operator, upstream, headers=lines, credential_header="api-key")
    assert saved.headers.split() == lines.split()
    assert "a-secret" not in saved.encrypted_headers
    assert saved.credential_header == "api-key"
    assert not saved.takes_stream_options  # An unchecked box.
    assert save_upstream(operator, upstream, takes_stream_options="on").headers.split()
    pages = [operator.get(change_url(upstream)), operator.get("/admin/catalog/upstream/")]
    # A mistake elsewhere on the page does not show what was entered.
    pages.append(
        operator.post(change_url(upstream), upstream_form(headers=lines, read_timeout="0"))
    )
    for page in pages:
        assert page.status_code == 200
        assert "a-secret" not in page.content.decode()
    new_address = upstream_form(base_url="http://127.0.0.1:9/v1", credential="new")
    refused = operator.post(change_url(upstream), new_address)
    assert "enter its headers again" in refused.content.decode()
    assert save_upstream(operator, upstream, forget_headers="on").headers == ""


def test_an_upstream_that_is_switched_off_is_not_for_its_team_to_switch_on(
    operator: Client, upstream: Upstream
) -> None:
    upstream.switch(is_active=False, by_team=True)
    assert not save_upstream(operator, upstream, takes_stream_options="on").is_held
    save_upstream(operator, upstream, is_active="on")
    assert save_upstream(operator, upstream).is_held


def test_an_upstream_is_added_with_its_credential(operator: Client, db: None) -> None:
    form = upstream_form(name="vllm", base_url="http://127.0.0.1:8001/v1", credential="word")
    operator.post("/admin/catalog/upstream/add/", form)
    assert Upstream.objects.get().credential == "word"


# People and teams.


def test_a_user_is_added_with_an_address_in_lower_case(operator: Client) -> None:
    form = {
        "username": "eve",
        "email": "Eve@Example.com",
        "usable_password": "true",
        "password1": PASSWORD,
        "password2": PASSWORD,
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
    }
    assert operator.post("/admin/teams/user/add/", form).status_code == 302
    assert User.objects.get(username="eve").email == "eve@example.com"


def test_the_slug_of_a_deleted_team_is_refused(operator: Client, other_team: Team) -> None:
    form = {
        "name": "Heir",
        "slug": other_team.slug,
        "max_keys": "7",
        "is_active": "on",
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
        **limits_form("limits"),
        **limits_form("key_limits"),
    }
    assert (
        operator.post(f"{change_url(other_team)[:-7]}delete/", {"post": "yes"}).status_code == 302
    )
    page = operator.post("/admin/teams/team/add/", form)
    assert "never used again" in page.content.decode()
    assert not Team.objects.filter(name="Heir").exists()
    assert operator.post("/admin/teams/team/add/", form | {"slug": "heir"}).status_code == 302
    heir = Team.objects.get(name="Heir")
    assert heir.slug == "heir"
    assert AuditEvent.objects.for_team(heir).get().action == Action.TEAM_CREATED


def test_a_slug_is_read_only_after_creation(operator: Client, team: Team) -> None:
    assert 'name="slug"' in operator.get("/admin/teams/team/add/").content.decode()
    assert 'name="slug"' not in operator.get(change_url(team)).content.decode()
    form = {
        "name": "Acme & Sons",
        "slug": "u-new",
        "max_keys": "7",
        "is_active": "on",
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
        **limits_form("limits", requests_per_day=1000),
        **limits_form("key_limits", requests_per_day=10),
    }
    assert operator.post(change_url(team), form).status_code == 302
    changed = Team.objects.get()
    assert changed.limits == Limits(requests_per_day=1000)
    assert changed.key_limits == Limits(requests_per_day=10)
    assert (changed.name, changed.slug, changed.max_keys) == ("Acme & Sons", team.slug, 7)


def test_a_management_key_can_be_viewed_and_deleted_but_not_changed(
    operator: Client, team: Team, bob: User
) -> None:
    key, key_string = ManagementKey.objects.issue(
        team=team, owner=bob, actor=None, name="deploy", scopes=[Scope.KEYS_READ]
    )
    page = operator.get(change_url(key)).content.decode()
    assert key.masked in page
    assert key_string.text not in page
    assert bytes(key.digest).hex() not in page
    assert operator.post(change_url(key), {"name": "other"}).status_code == 403
    assert operator.post(change_url(key, "delete"), {"post": "yes"}).status_code == 302
    row = AuditEvent.objects.get(action=Action.MANAGEMENT_KEY_DELETED)
    assert (row.actor, row.target) == ("root", str(key))
    keys = [
        ManagementKey.objects.issue(team=team, owner=bob, actor=None, name=name, scopes=[])[0]
        for name in ("one", "two")
    ]
    data = {"action": "delete_selected", "_selected_action": [key.pk for key in keys]}
    operator.post("/admin/api/managementkey/", {**data, "post": "yes"})
    assert not ManagementKey.objects.exists()
    assert AuditEvent.objects.with_action(Action.MANAGEMENT_KEY_DELETED).count() == 3


def test_audit_is_read_only(operator: Client, team: Team) -> None:
    row = AuditEvent.objects.record(Action.KEY_CREATED, target="ci", team=team)
    assert operator.get(change_url(row)).status_code == 200
    assert operator.post(change_url(row), {"target": "other"}).status_code == 403
    assert operator.post(change_url(row, "delete"), {"post": "yes"}).status_code == 403
    data = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    operator.post("/admin/audit/auditevent/", data)
    assert AuditEvent.objects.filter(pk=row.pk).get().target == "ci"


def test_lists_need_the_same_queries_at_any_length(
    operator: Client, bob: User, model: ServedModel, issue: Issue
) -> None:
    def queries(kind: str) -> int:
        with CaptureQueriesContext(connection) as seen:
            assert operator.get(f"/admin/{kind}/").status_code == 200
        return len(seen)

    def fill(number: int) -> None:
        team = Team.objects.create(name=f"Team {number}")
        user = User.objects.create_user(f"user{number}")
        Membership.objects.create(team=team, user=user)
        issue(user, "key", team=team)
        served = ServedModel.objects.create(name=f"public/{number}", team=team)
        Route.objects.create(model=served, upstream=Upstream.objects.get(), upstream_model="m")

    kinds = ("keys/apikey", "teams/team", "teams/membership", "catalog/route")
    fill(0)
    few = {kind: queries(kind) for kind in kinds}
    for number in range(1, 4):
        fill(number)
    assert {kind: queries(kind) for kind in kinds} == few
