"""Keys that an admin manages: their owner can't change permissions, limits, expiry or owner, nor
enable them."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import Changes, change_key, disable, enable, hand_over, set_managed
from keyportal.keys.exceptions import ManagedByAdmin
from keyportal.keys.limits import set_key_limits
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, delete_expired_secrets, rotate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.status import badges
from keyportal.leaks import handling
from keyportal.leaks.reports import OPERATOR, ReportContents, ReportedKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.cases import case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]
MANAGED = "An admin manages this key"
SOON = timezone.now() + timedelta(days=9)
LATER = SOON + timedelta(days=9)
ADMINS_FORMS: dict[str, dict[str, object]] = {
    "permissions/": {"scope": "all", "endpoints": "all"},
    "limits/": {"tokens_per_day": "9"},
    "expiry/": {"lifetime": "never"},
    "hand-over/": {},
    "enable/": {},
}


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    narrow = Permissions(("public/*",), Endpoints.CHAT)
    return issue(bob, actor=bob, permissions=narrow, expires_at=LATER)[0]


def address(key: ApiKey, path: str = "") -> str:
    return f"{KEYS}{key.public_id}/{path}"


def is_managed(key: ApiKey) -> bool:
    return ApiKey.objects.get(pk=key.pk).is_managed


def managed_rows(key: ApiKey) -> list[tuple[str, str]]:
    """Action and actor, the oldest first."""
    actions = (Action.KEY_MANAGED, Action.KEY_UNMANAGED)
    rows = AuditEvent.objects.for_key(key.public_id).filter(action__in=actions).order_by("pk")
    return [*rows.values_list("action", "actor")]


def limited(key: ApiKey, by: User, limits: Limits) -> None:
    set_key_limits(key, limits, actor=by)


# How it becomes managed.

NARROWER: dict[str, Callable[[ApiKey, User], object]] = {
    "models": lambda key, by: change_key(
        key, Changes(permissions=key.permissions._replace(models=("public/x",))), actor=by
    ),
    "endpoints": lambda key, by: change_key(
        key, Changes(permissions=key.permissions._replace(endpoints=Endpoints.READ)), actor=by
    ),
    "networks": lambda key, by: change_key(
        key, Changes(permissions=key.permissions._replace(networks=("10.0.0.0/8",))), actor=by
    ),
    "expiry": lambda key, by: change_key(key, Changes(expires_at=SOON), actor=by),
    "limits": lambda key, by: limited(key, by, Limits(tokens_per_day=9)),
    "disabled": lambda key, by: disable(key, actor=by),
}
WIDER_OR_ELSE: dict[str, Callable[[ApiKey, User], object]] = {
    "permissions": lambda key, by: change_key(key, Changes(permissions=Permissions()), actor=by),
    "expiry": lambda key, by: change_key(key, Changes(expires_at=None), actor=by),
    "same": lambda key, by: change_key(key, Changes(permissions=key.permissions), actor=by),
    "name": lambda key, by: change_key(
        key, Changes(name="ci", description="Nightly.", tags=["ci"]), actor=by
    ),
    "rotated": lambda key, by: rotate(key, GracePeriod.NOW, actor=by),
}


@pytest.mark.parametrize("act", NARROWER.values(), ids=[*NARROWER])
def test_key_narrowed_by_an_admin_becomes_managed(
    ada: User, bob: User, key: ApiKey, act: Callable[[ApiKey, User], object]
) -> None:
    """Also if its owner had narrowed it before."""
    disable(key, actor=bob)
    act(key, ada)
    assert is_managed(key)
    assert managed_rows(key) == [("key:managed", "ada")]
    with pytest.raises(ManagedByAdmin):
        enable(key, actor=bob)


@pytest.mark.parametrize("act", NARROWER.values(), ids=[*NARROWER])
def test_key_narrowed_by_its_owner_is_not_managed(
    ada: User, bob: User, key: ApiKey, issue: Issue, act: Callable[[ApiKey, User], object]
) -> None:
    admins_own, _ = issue(ada, "hers", actor=ada, expires_at=LATER)
    for one, owner in ((key, bob), (admins_own, ada)):
        act(one, owner)
        assert not is_managed(one)
        assert managed_rows(one) == []


@pytest.mark.parametrize("act", WIDER_OR_ELSE.values(), ids=[*WIDER_OR_ELSE])
def test_other_changes_by_an_admin_do_not_make_a_key_managed(
    ada: User, key: ApiKey, act: Callable[[ApiKey, User], object]
) -> None:
    act(key, ada)
    assert not is_managed(key)


def test_key_disabled_by_owner_then_admin_becomes_managed(
    ada: User, bob: User, key: ApiKey
) -> None:
    """Or they would enable it, after the admin has read that it is disabled."""
    since = disable(key, actor=bob).disabled_at
    for _ in range(2):
        disable(key, actor=ada)
    disable(key, actor=bob)  # Does not make it theirs.
    key.refresh_from_db()
    assert (key.disabled_at, key.disabled_by, key.is_managed) == (since, "admin", True)
    rows = AuditEvent.objects.filter(action=Action.KEY_DISABLED).order_by("pk")
    assert [row.actor for row in rows] == ["bob", "ada"]
    with pytest.raises(ManagedByAdmin):
        enable(key, actor=bob)


def test_operator_narrows_manages_and_gives_back(bob: User, team: Team, key: ApiKey) -> None:
    call_command("keys", "disable", key.public_id)
    assert managed_rows(key) == [("key:managed", "")]
    for actions in (["unmanage", "unmanage"], ["manage", "manage"]):
        for action in actions:
            call_command("keys", action, key.public_id)
        assert is_managed(key) is (actions[0] == "manage")
    assert [action for action, _ in managed_rows(key)] == [
        "key:managed",
        "key:unmanaged",
        "key:managed",
    ]
    made = ("--team", team.slug, "--owner", "bob", "--expires", "90d", "--models", "public/*")
    call_command("keys", "create", *made, "--name", "his")
    call_command("keys", "create", *made, "--name", "ours", "--managed")
    assert not ApiKey.objects.get(name="his").is_managed
    with pytest.raises(ManagedByAdmin):
        change_key(ApiKey.objects.get(name="ours"), Changes(expires_at=None), actor=bob)


def test_admin_takes_over_and_gives_back_a_key_on_its_page(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    client = sign_in(ada)
    page = client.get(address(key)).content.decode()
    assert f'action="{address(key, "manage/")}"' in page
    response = client.post(address(key, "manage/"), headers=HTMX)
    assert response.status_code == 204
    assert is_managed(key)
    response = client.post(address(key, "unmanage/"), follow=True)
    assert "is managed by its owner again" in response.content.decode()
    assert not is_managed(key)
    assert managed_rows(key) == [("key:managed", "ada"), ("key:unmanaged", "ada")]
    change_key(key, Changes(permissions=Permissions(), expires_at=None), actor=bob)


@pytest.mark.parametrize("path", ["manage/", "unmanage/"])
def test_only_admins_can_set_managed(
    sign_in: SignIn, bob: User, vera: User, charlie: User, ada: User, key: ApiKey, path: str
) -> None:
    set_managed(key, path == "unmanage/", actor=ada)
    for person, status in ((bob, 403), (vera, 403), (charlie, 404)):
        assert sign_in(person).post(address(key, path)).status_code == status
    assert sign_in(ada).get(address(key, path)).status_code == 405
    assert f'action="{address(key, path)}"' not in sign_in(bob).get(address(key)).content.decode()
    for is_to_be in (True, False):
        with pytest.raises(ManagedByAdmin):
            set_managed(key, is_to_be, actor=bob)
    assert is_managed(key) is (path == "unmanage/")


# What its owner still does, and what not.


@pytest.fixture
def managed(ada: User, key: ApiKey) -> ApiKey:
    disable(key, actor=ada)
    return key


def test_owner_sees_who_manages_the_key_and_no_forbidden_buttons(
    sign_in: SignIn, ada: User, bob: User, managed: ApiKey
) -> None:
    def actions(person: User) -> set[str]:
        page = sign_in(person).get(address(managed)).content.decode()
        assert MANAGED in page
        everything = (*ADMINS_FORMS, "edit/", "rotate/", "delete/", "unmanage/")
        return {path for path in everything if f'action="{address(managed, path)}"' in page}

    assert actions(bob) == {"edit/", "rotate/", "delete/"}
    assert actions(ada) == {*ADMINS_FORMS, "edit/", "rotate/", "delete/", "unmanage/"}
    shown_badges = badges(ApiKey.objects.for_display().get())
    assert "Managed" in [badge.text for badge in shown_badges]
    assert shown_badges[0].title == "It is refused until an admin enables it."
    rotation = sign_in(bob).get(address(managed, "rotate/")).content.decode()
    assert "until an admin enables it" in rotation
    assert "Only an admin can enable it again." in (
        sign_in(bob).get(address(managed, "disable/")).content.decode()
    )


def test_owner_of_a_managed_key_is_refused_with_the_reason(
    sign_in: SignIn, bob: User, managed: ApiKey
) -> None:
    before = ApiKey.objects.values().get()
    client = sign_in(bob)
    for path, form in ADMINS_FORMS.items():
        url = address(managed, path)
        sentence = client.post(url, form, headers=HTMX)
        with case(path):
            for response in (client.get(url), client.post(url, form), sentence):
                assert response.status_code == 403
                assert MANAGED in response.content.decode()
            # HTMX gets the sentence alone, which the page then tells.
            assert sentence["Content-Type"] == "text/plain; charset=utf-8"
    assert ApiKey.objects.values().get() == before


@pytest.mark.parametrize("path", ADMINS_FORMS)
def test_form_opened_before_the_key_became_managed_is_refused(
    sign_in: SignIn,
    ada: User,
    alice: User,
    bob: User,
    key: ApiKey,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    """Also where an admin takes it over after the view has read the key: the lock decides."""
    disable(key, actor=bob)
    client = sign_in(bob)
    fields = ADMINS_FORMS[path] | ({"owner": alice.pk} if path == "hand-over/" else {})
    form = form_data(client.get(address(key, path)), **fields)
    monkeypatch.setattr(
        "keyportal.keys.views.decorators.may_manage",
        lambda *_: bool(set_managed(key, True, actor=ada)),
    )
    response = client.post(address(key, path), form)
    assert response.status_code == 403
    assert MANAGED in response.content.decode()
    row = ApiKey.objects.get()
    assert (row.owner, row.permissions, row.expires_at) == (bob, key.permissions, LATER)
    assert (row.limits, row.disabled_by) == (Limits(), "owner")


def test_owner_can_neither_widen_nor_narrow_a_managed_key(bob: User, managed: ApiKey) -> None:
    acts: list[Callable[[], object]] = [
        partial(change_key, managed, Changes(name="new", permissions=Permissions()), actor=bob),
        partial(change_key, managed, Changes(name="new", expires_at=None), actor=bob),
        partial(change_key, managed, Changes(name="new", expires_at=SOON), actor=bob),
        partial(limited, managed, bob, Limits(5)),
        partial(enable, managed, actor=bob),
    ]
    before = ApiKey.objects.values().get()
    for act in acts:
        with pytest.raises(ManagedByAdmin):
            act()
    assert ApiKey.objects.values().get() == before


def test_owner_cannot_hand_over_a_managed_key(
    sign_in: SignIn, alice: User, ada: User, bob: User, team: Team, managed: ApiKey
) -> None:
    cora = User.objects.create_user("cora", "cora@example.com")
    Membership.objects.create(team=team, user=cora, role=Role.MEMBER)
    for to in (cora, alice):
        with pytest.raises(ManagedByAdmin):
            hand_over(managed, to, actor=bob)
    # It stays managed when an admin hands it over.
    hand_over(managed, cora, actor=ada)
    with pytest.raises(ManagedByAdmin):
        enable(managed, actor=cora)
    hand_over(managed, alice, actor=ada)
    enable(managed, actor=alice)
    assert is_managed(managed)


def test_owner_edits_rotates_disables_and_deletes_a_managed_key(
    sign_in: SignIn, bob: User, managed: ApiKey
) -> None:
    client = sign_in(bob)
    form = form_data(
        client.get(address(managed, "edit/")), name="ci", description="Nightly.", tags="x"
    )
    assert client.post(address(managed, "edit/"), form).status_code == 302
    rotate(managed, GracePeriod.DAY, actor=bob)
    disable(managed, actor=bob)
    row = ApiKey.objects.get()
    assert (row.name, row.description, row.tags) == ("ci", "Nightly.", ["x"])
    # A rotation gives no more time, and enables nothing that an admin disabled.
    assert (row.expires_at, row.disabled_by, row.is_managed) == (LATER, "admin", True)
    response = client.post(f"{KEYS}bulk/delete/", {"keys": [managed.public_id]})
    assert response.status_code == 302
    assert not ApiKey.objects.exists()


def test_saving_a_managed_key_unchanged_is_allowed(bob: User, managed: ApiKey) -> None:
    same = Changes(name="ci", permissions=managed.permissions, expires_at=managed.expires_at)
    assert change_key(managed, same, actor=bob).name == "ci"
    limited(managed, bob, Limits())


def test_owner_who_is_an_admin_can_change_a_managed_key(ada: User, issue: Issue) -> None:
    key, _ = issue(ada, actor=ada)
    disable(key, actor=None)
    assert is_managed(key)
    enable(key, actor=ada)
    change_key(key, Changes(expires_at=SOON), actor=ada)
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    with pytest.raises(ManagedByAdmin):
        change_key(key, Changes(expires_at=LATER), actor=ada)


def test_enabled_key_stays_managed_and_the_message_says_so(
    sign_in: SignIn, ada: User, bob: User, managed: ApiKey
) -> None:
    response = sign_in(ada).post(address(managed, "enable/"), headers=HTMX)
    assert "An admin still manages it." in response["HX-Trigger"]
    disable(managed, actor=bob)
    with pytest.raises(ManagedByAdmin):
        enable(managed, actor=bob)


def test_forms_tell_an_admin_that_the_key_becomes_managed(
    sign_in: SignIn, ada: User, bob: User, key: ApiKey
) -> None:
    hint = "it becomes managed"
    for path in ("permissions/", "limits/", "expiry/"):
        assert hint in sign_in(ada).get(address(key, path)).content.decode()
        assert hint not in sign_in(bob).get(address(key, path)).content.decode()
    set_managed(key, True, actor=ada)
    assert hint not in sign_in(ada).get(address(key, "expiry/")).content.decode()


def test_health_page_offers_the_owner_only_allowed_actions(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, actor=bob)  # It never expires.
    path = "/teams/u-8105f7322477/health/"
    assert f'action="{address(key, "expiry/")}"' in sign_in(bob).get(path).content.decode()
    set_managed(key, True, actor=ada)
    assert f'action="{address(key, "expiry/")}"' not in sign_in(bob).get(path).content.decode()
    assert f'action="{address(key, "expiry/")}"' in sign_in(ada).get(path).content.decode()


# Disabled after a report of a leak.


@pytest.fixture
def reported(bob: User, issue: Issue) -> ApiKey:
    """A key that a report has disabled."""
    key, plaintext = issue(bob, actor=bob)
    report(plaintext)
    key.refresh_from_db()
    assert key.disabled_by == "leak"
    return key


def report(plaintext: str) -> None:
    handling.handle_report(ReportContents([ReportedKey(plaintext)], OPERATOR), address=None)


@pytest.mark.parametrize("way", ["page", "bulk", "command"])
def test_reported_key_disabled_by_an_admin_stays_disabled_after_a_rotation(
    sign_in: SignIn, ada: User, bob: User, reported: ApiKey, way: str
) -> None:
    if way == "page":
        sign_in(ada).post(address(reported, "disable/"))
    elif way == "bulk":
        sign_in(ada).post(f"{KEYS}bulk/disable/", {"keys": [reported.public_id]})
    else:
        call_command("keys", "disable", reported.public_id)
    rotate(reported, GracePeriod.NOW, actor=bob)
    reported.refresh_from_db()
    assert (reported.reported_at, reported.disabled_by) == (None, "admin")
    assert reported.is_managed


def test_clean_up_does_not_enable_a_key_disabled_by_an_admin(
    ada: User, bob: User, reported: ApiKey
) -> None:
    disable(reported, actor=ada)
    rotate(reported, GracePeriod.DAY, actor=bob)
    now = timezone.now()
    Secret.objects.filter(expires_at__gt=now).update(expires_at=now - timedelta(seconds=1))
    assert delete_expired_secrets() == 1
    reported.refresh_from_db()
    assert (reported.reported_at, reported.disabled_by) == (None, "admin")


def test_leaked_managed_key_works_again_after_its_owner_rotates_it(
    ada: User, bob: User, reported: ApiKey
) -> None:
    """The report disabled it, and no admin; but that it works with what leaked is an admin's."""
    set_managed(reported, True, actor=ada)
    with pytest.raises(ManagedByAdmin):
        enable(reported, actor=bob)
    rotate(reported, GracePeriod.NOW, actor=bob)
    reported.refresh_from_db()
    assert (reported.disabled_at, reported.is_managed) == (None, True)


def test_reported_key_disabled_by_its_owner_stays_disabled_after_a_rotation(
    bob: User, reported: ApiKey
) -> None:
    for _ in range(2):
        disable(reported, actor=bob)
    rotate(reported, GracePeriod.NOW, actor=bob)
    reported.refresh_from_db()
    assert reported.disabled_by == "owner"
    enable(reported, actor=bob)


def test_leak_report_does_not_unmanage_a_key(ada: User, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob, actor=bob)
    since = disable(key, actor=ada).disabled_at
    report(plaintext)
    rotate(key, GracePeriod.NOW, actor=bob)
    key.refresh_from_db()
    assert (key.disabled_at, key.disabled_by, key.is_managed) == (since, "admin", True)
