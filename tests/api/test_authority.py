"""Who may act is judged under the lock: somebody who loses the right while their request waits for
the lock is refused, and changes nothing.

Attack: an admin who is demoted or removed, or an owner whose key is handed over, still gets the
plaintext of its new secret, because the request was judged before it waited.
"""

import ast
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.db.models import Model
from django.test import Client

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import disable, hand_over
from keyportal.keys.models import ApiKey, KeyTemplate, Secret
from keyportal.keys.rotation import GracePeriod, rotate
from keyportal.teams import access
from keyportal.teams.access import Operator
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.api_client import NewApiClient
from tests.support.concurrency import is_lock_awaited, run_concurrently
from tests.support.forms import form_data
from tests.support.server import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long]
# The change is committed before the transaction begins, on both databases.
before_the_lock = pytest.mark.any_database
Issue = Callable[..., tuple[ApiKey, str]]
Change = Callable[[], object]
AtLock = Callable[[Change], None]


@pytest.fixture
def at_lock(monkeypatch: pytest.MonkeyPatch) -> AtLock:
    """`at_lock(change)`: commit the change by another connection, just before the next lock."""

    def at_lock(change: Change) -> None:
        changes = [change]

        def atomic(*args: Any, **options: Any) -> Any:
            if changes:
                run_concurrently(changes.pop())
            return transaction.atomic(*args, **options)

        monkeypatch.setattr(access, "transaction", SimpleNamespace(atomic=atomic))

    return at_lock


def stored(*models: type[Model]) -> list[list[tuple[object, ...]]]:
    columns = [[field.attname for field in model._meta.concrete_fields] for model in models]
    return [
        [*model._base_manager.order_by("pk").values_list(*names)]
        for model, names in zip(models, columns, strict=True)
    ]


CHANGEABLE = (ApiKey, Secret, Team, KeyTemplate, ManagementKey)
LOSSES: dict[str, Callable[[User], object]] = {
    "demoted": lambda user: Membership.objects.filter(user=user).update(role=Role.VIEWER),
    "removed": lambda user: Membership.objects.filter(user=user).delete(),
    "deactivated": lambda user: User.objects.filter(pk=user.pk).update(is_active=False),
    "in an inactive team": lambda _: Team.objects.update(is_active=False),
}
KEY_PAGES: dict[str, dict[str, object]] = {
    "rotate": {"grace": "now"},
    "end-old": {},
    "edit": {"name": "taken-over"},
    "permissions": {"scope": "chosen", "patterns": "public/x"},
    "expiry": {"lifetime": "7"},
    "limits": {"tokens_per_day": "9"},
    "hand-over": {"owner": "{alice}"},
    "disable": {},
    "enable": {},
    "manage": {},
    "unmanage": {},
    "delete": {},
}
TEAM_PAGES: dict[str, dict[str, object]] = {
    "keys/create/": {"name": "mine"},
    "keys/bulk/delete/": {"keys": "{key}"},
    "keys/bulk/disable/": {"keys": "{key}"},
    "policy/": {"max_lifetime_days": "9"},
    "limits/": {"tokens_per_day": "9"},
    "templates/create/": {"name": "mine"},
    "templates/{template}/change/": {"name": "mine"},
    "templates/{template}/delete/": {},
    "management-keys/create/": {"name": "mine", "scopes": "keys:read"},
    "management-keys/{program}/delete/": {},
}
PAGES = {f"keys/{{key}}/{page}/": fields for page, fields in KEY_PAGES.items()} | TEAM_PAGES


def sender(
    client: Client, path: str, fields: dict[str, object], parts: dict[str, object]
) -> Callable[[], Any]:
    """A form that is open by now, to be sent."""
    path = path.format(**parts)
    page = client.get(path)
    form = form_data(page) if page.status_code == 200 and b"<form" in page.content else {}
    values = {name: str(value).format(**parts) for name, value in fields.items()}
    return lambda: client.post(path, {**form, **values})


@pytest.fixture
def parts(alice: User, bob: User, team: Team, issue: Issue, new_api_client: NewApiClient) -> Any:
    """A key of bob that is disabled and rotating, a template and a management key."""
    key, _ = issue(bob)
    rotate(key, GracePeriod.WEEK, actor=bob)
    disable(key, actor=bob)
    template = KeyTemplate.objects.create(team=team, name="CI job")
    program = new_api_client(alice, "of alice").key
    return {
        "alice": alice.pk,
        "key": key.public_id,
        "template": template.pk,
        "program": program.public_id,
    }


def restore(user: User, team: Team) -> None:
    Membership.objects.update_or_create(user=user, team=team, defaults={"role": Role.ADMIN})
    User.objects.update(is_active=True)
    Team.objects.update(is_active=True)


# One for each kind of lock: on a key, several keys, the team, and for a management key.
EACH_LOCK = ("keys/{key}/rotate/", "keys/bulk/disable/", "limits/", "management-keys/create/")


@before_the_lock
@pytest.mark.parametrize("loss", LOSSES)
def test_admin_who_loses_the_right_while_waiting_changes_nothing(
    client: Client, ada: User, team: Team, parts: dict[str, object], at_lock: AtLock, loss: str
) -> None:
    before = stored(*CHANGEABLE)
    # What is lost is read in one place, see `test_there_is_no_other_lock`.
    for page in PAGES if loss == "demoted" else EACH_LOCK:
        if "_auth_user_id" not in client.session:
            client.force_login(ada)
        send = sender(client, f"/teams/{team.slug}/{page}", PAGES[page], parts)
        at_lock(lambda: LOSSES[loss](ada))
        response = send()
        restore(ada, team)
        # 400: the session of a removed user ended during the request.
        assert response.status_code in {400, 403, 404}, page
        assert "sk-kp-" not in response.content.decode()
        assert stored(*CHANGEABLE) == before, page
    others = {Action.SIGNED_IN}
    assert not AuditEvent.objects.filter(actor="ada").exclude(action__in=others).exists()


@before_the_lock
def test_former_owner_changes_nothing(
    client: Client,
    alice: User,
    bob: User,
    team: Team,
    parts: dict[str, object],
    at_lock: AtLock,
) -> None:
    client.force_login(bob)
    key = ApiKey.objects.get()
    for page in sorted(KEY_PAGES.keys() - {"manage", "unmanage"}):
        hand_over(key, bob, actor=None)
        path = f"/teams/{team.slug}/keys/{{key}}/{page}/"
        send = sender(client, path, KEY_PAGES[page], parts)
        at_lock(partial(hand_over, key, alice, actor=None))
        response = send()
        assert response.status_code == 403, page
        assert "sk-kp-" not in response.content.decode()
        key = ApiKey.objects.get()
        assert (key.owner, key.name, key.secrets.count()) == (alice, "test-key", 2)
        assert key.disabled_by == ApiKey.DisabledBy.OWNER


def narrow(**columns: object) -> Callable[[User], object]:
    return lambda _: ManagementKey.objects.exclude(owner__username="alice").update(**columns)


API_LOSSES: dict[str, tuple[Callable[[User], object], int]] = {
    "demoted": (LOSSES["demoted"], 403),
    "removed": (LOSSES["removed"], 401),
    "deactivated": (LOSSES["deactivated"], 401),
    "in an inactive team": (LOSSES["in an inactive team"], 401),
    "without its key": (
        lambda user: ManagementKey.objects.get(owner=user).revoke(actor=None),
        401,
    ),
    "with an expired key": (narrow(expires_at=datetime(2000, 1, 1, tzinfo=UTC)), 401),
    "with fewer scopes": (narrow(scopes=[Scope.KEYS_READ]), 403),
    "with narrower bounds": (narrow(allowed_models=["public/x"]), 403),
}
API_CALLS: dict[str, tuple[str, str, object]] = {
    "rotate": ("POST", "keys/{key}/rotate", {"grace": "now"}),
    "end the old secret": ("POST", "keys/{key}/end-old-secret", None),
    "edit": ("PATCH", "keys/{key}", {"name": "taken-over"}),
    "limits": ("PATCH", "keys/{key}", {"limits": {"tokens_per_day": 9}}),
    "hand over": ("PATCH", "keys/{key}", {"owner": "alice"}),
    "manage": ("PATCH", "keys/{key}", {"is_managed": True}),
    "disable": ("POST", "keys/{key}/disable", None),
    "enable": ("POST", "keys/{key}/enable", None),
    "delete": ("DELETE", "keys/{key}", None),
    "create": ("POST", "keys", {"name": "mine", "permissions": {"models": ["public/y"]}}),
}
# Operations have scopes and bounds of their own. Other losses are read in one place.
OF_EACH_CALL = {"demoted", "with fewer scopes", "with narrower bounds"}
EACH_API_LOCK = {"rotate", "hand over", "create"}
# Bounds don't restrict what ends a key.
WITHIN_BOUNDS = {"end the old secret", "disable", "delete"}


@before_the_lock
@pytest.mark.parametrize("loss", API_LOSSES)
def test_program_that_loses_the_right_while_waiting_changes_nothing(
    ada: User,
    team: Team,
    parts: dict[str, object],
    new_api_client: NewApiClient,
    at_lock: AtLock,
    loss: str,
) -> None:
    lose, status = API_LOSSES[loss]
    before = stored(ApiKey, Secret)
    calls = API_CALLS.keys() if loss in OF_EACH_CALL else EACH_API_LOCK
    for call in calls - (WITHIN_BOUNDS if loss == "with narrower bounds" else set()):
        program = new_api_client(ada)
        method, path, body = API_CALLS[call]
        at_lock(lambda: lose(ada))
        response = program.request(method, path.format(**parts), body)
        restore(ada, team)
        ManagementKey.objects.filter(owner=ada).delete()
        assert response.status_code == status, call
        assert "sk-kp-" not in response.content.decode()
        assert stored(ApiKey, Secret) == before, call


@pytest.mark.postgresql  # SQLite locks the whole database, so the request waits elsewhere.
@pytest.mark.parametrize("page", EACH_LOCK)
def test_request_that_waits_for_the_lock_is_judged_after_it(
    client: Client,
    ada: User,
    team: Team,
    parts: dict[str, object],
    page: str,
) -> None:
    """With real waiting: the demotion is not yet committed when the request comes."""
    before = stored(*CHANGEABLE)
    client.force_login(ada)
    send = sender(client, f"/teams/{team.slug}/{page}", PAGES[page], parts)
    responses = []

    def request() -> None:
        responses.append(send())
        connection.close()

    with transaction.atomic():
        Team.objects.select_for_update(no_key=True).get(pk=team.pk)
        Membership.objects.filter(user=ada).update(role=Role.VIEWER)
        thread = Thread(target=request)
        thread.start()
        wait_until(lambda: is_lock_awaited() or not thread.is_alive())
    thread.join(timeout=60)
    assert [response.status_code for response in responses] == [403]
    assert stored(*CHANGEABLE) == before


@before_the_lock
def test_operator_who_loses_the_permission_deletes_nothing(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    root = User.objects.create_superuser("root", "root@example.com")
    User.objects.filter(pk=root.pk).update(is_superuser=False)
    with pytest.raises(PermissionDenied):
        key.revoke(actor=Operator(root, "keys.delete_apikey"))
    assert ApiKey.objects.get() == key


# A team's or a key's row is locked here alone; the forms of Django's admin lock the row that they
# compare, and judge when they save it.
LOCKS = {
    "keyportal/teams/access.py",
    "keyportal/teams/forms.py",
    "keyportal/keys/models/api_key.py",
    "keyportal/api/models/management_key.py",
    "keyportal/api/framework/authentication.py",
}


# What is locked there is neither a team nor a key.
OTHER_ROWS = {
    *("User", "Membership", "Session", "ProvisionedGroup", "StoredProvider"),
    *("Upstream", "ServedModel", "Authenticator"),
}
OF_OTHER_ROWS = {
    "keyportal/api/scim/users.py",
    "keyportal/api/v1/model_servers.py",
    "keyportal/catalog/former_names.py",
    "keyportal/catalog/receivers.py",
    "keyportal/keys/programs/device_flow.py",
    "keyportal/keys/receivers.py",
    "keyportal/operators/access.py",
    "keyportal/operators/server_access.py",
    "keyportal/server/management/commands/reencrypt.py",
    "keyportal/teams/openid/providers.py",
}


def queried(node: ast.expr) -> str:
    """`User` for `User.objects.filter(...).select_for_update`, or the name of a variable."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.any_database
def test_there_is_no_other_lock() -> None:
    root = Path(__file__).parent.parent.parent
    found = {
        str(file.relative_to(root))
        for file in root.glob("keyportal/**/*.py")
        if "select_for_update" in file.read_text()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "select_for_update"
        and queried(node) not in OTHER_ROWS
    }
    assert found == LOCKS | OF_OTHER_ROWS
