"""A key that a report deleted leaves what another one like it needs; and that gives nobody more
than they could have anyway."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent, Tombstone
from keyportal.keys import changes, leaks, remnants, secret
from keyportal.keys.banner import leaks_of
from keyportal.keys.changes import Changes, change, hand_over
from keyportal.keys.limits import AboveCeiling, limit_key
from keyportal.keys.models import ApiKey, Remnant
from keyportal.keys.permissions import EVERYTHING, Endpoints, Permissions
from keyportal.keys.refusals import (
    AlreadyCreated,
    BeyondGranted,
    EndsTooLate,
    HadExpired,
    Held,
    KeyLimitReached,
    KeyRefused,
    NameTaken,
    NotAMember,
    PolicyBroken,
)
from keyportal.keys.replacing import dismiss, obstacles, replace
from keyportal.keys.reports import GITHUB, SOMEBODY, Found, Report
from keyportal.keys.rotation import Grace, rotate
from keyportal.teams.limits import UNLIMITED, Limits
from keyportal.teams.models import Membership, Role, Team, User
from tests.keys.conftest import DELETING
from tests.keys.crowd import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deleting")]
Issue = Callable[..., tuple[ApiKey, str]]
Leak = Callable[..., Remnant]
NARROW = Permissions(("public/*",), Endpoints.CHAT, ("192.0.2.0/24",))


@pytest.fixture
def leak(issue: Issue) -> Leak:
    """Make a key as its owner does, change it, and report it."""

    def leak(owner: User, name: str = "nightly", **more: object) -> Remnant:
        return report(*issue(owner, name, actor=owner, **more))

    return leak


def report(key: ApiKey, text: str, reporter: str = SOMEBODY) -> Remnant:
    (ended,) = leaks.report(Report([Found(text)], reporter))
    assert ended.is_deleted
    return Remnant.objects.select_related("team", "owner").get(public_id=key.public_id)


def member(user: User) -> Membership:
    return Membership.objects.select_related("team", "user").get(user=user)


def demand(**rules: object) -> None:
    Team.objects.update(policy=DELETING._replace(**rules))  # type: ignore[arg-type]  # by name


def in_days(days: float) -> timedelta:
    return timedelta(days=days)


def left(key: ApiKey) -> timedelta:
    assert key.expires_at
    return key.expires_at - timezone.now()


def test_another_key_like_it_has_all_that_it_had(bob: User, issue: Issue) -> None:
    end = timezone.now() + in_days(20)
    key, text = issue(
        bob,
        "nightly",
        actor=bob,
        description="For the archive.",
        tags=["ci"],
        permissions=NARROW,
        expires_at=end,
    )
    key, masked = limited(key, bob, Limits(requests_per_minute=5)), key.masked
    remnant = report(key, text, GITHUB)
    assert (remnant.reporter, remnant.masked) == (GITHUB, masked)
    new, plaintext = replace(remnant, actor=bob, address="192.0.2.1")
    new.refresh_from_db()
    for same in ("team", "owner", "name", "description", "tags", "permissions", "limits"):
        assert getattr(new, same) == getattr(key, same)
    assert new.expires_at == end
    assert (new.granted_limits, new.granted_permissions, new.granted_expires_at) == (None,) * 3
    assert (new.disabled_at, new.reported_at, new.is_held) == (None, None, False)
    assert new.public_id != key.public_id
    assert bytes(new.secrets.get().digest) == secret.digest(plaintext.text.encode())
    assert not Remnant.objects.exists()
    rows = AuditEvent.objects.filter(actor="bob", address="192.0.2.1").order_by("pk")
    assert [*rows.values_list("action", "public_id", "target")] == [
        (Action.KEY_CREATED, new.public_id, str(new)),
        (Action.KEY_REPLACED, key.public_id, f"{key}: {new} was made in its place"),
    ]


def limited(key: ApiKey, by: User, limits: Limits) -> ApiKey:
    limit_key(key, limits, by=member(by), address=None)
    key.refresh_from_db()
    return key


def test_the_audit_tells_the_whole_of_it_for_the_longest_names(bob: User, leak: Leak) -> None:
    remnant = leak(bob, "n" * 64)
    new, _ = replace(remnant, actor=bob)
    row = AuditEvent.objects.get(action=Action.KEY_REPLACED)
    assert row.target.endswith(f"{new} was made in its place")


def test_it_is_known_by_the_secret_that_leaked(bob: User, issue: Issue) -> None:
    key, text = issue(bob, actor=bob)
    masked = key.masked
    rotate(key, Grace.DAY, actor=bob)
    assert report(key, text).masked == masked
    assert Tombstone.objects.filter(reporter=SOMEBODY).count() == 2


def test_a_key_that_somebody_deleted_leaves_nothing(bob: User, issue: Issue) -> None:
    key, text = issue(bob)
    key.revoke(actor=bob)
    leaks.report(Report([Found(text)]))
    assert not Remnant.objects.exists()
    assert Tombstone.objects.get().reporter == ""


def test_one_that_is_only_disabled_leaves_nothing(bob: User, issue: Issue) -> None:
    demand(on_leak="disable")
    _, text = issue(bob)
    leaks.report(Report([Found(text)]))
    assert not Remnant.objects.exists()


def test_what_is_dismissed_is_gone_for_everybody(alice: User, bob: User, leak: Leak) -> None:
    remnant = leak(bob)
    dismiss(remnant, actor=bob, address="192.0.2.1")
    assert leaks_of(member(alice)).deleted == leaks_of(member(bob)).deleted == []
    row = AuditEvent.objects.get(action=Action.LEAK_DISMISSED)
    assert (row.target, row.public_id) == (str(remnant), remnant.public_id)
    assert (row.actor, row.address) == ("bob", "192.0.2.1")
    with pytest.raises(Remnant.DoesNotExist):
        dismiss(remnant, actor=bob)
    with pytest.raises(Remnant.DoesNotExist):
        replace(remnant, actor=bob)
    assert AuditEvent.objects.filter(action=Action.LEAK_DISMISSED).count() == 1


def test_it_goes_by_itself_after_a_month(bob: User, leak: Leak) -> None:
    leak(bob)
    Remnant.objects.update(reported_at=timezone.now() - in_days(29.9))
    assert len(leaks_of(member(bob)).deleted) == 1
    Remnant.objects.update(reported_at=timezone.now() - in_days(30.1))
    assert leaks_of(member(bob)).deleted == []


# What keeps a new one from being made, and is told in advance.


def take_the_name(bob: User, ada: User) -> None:
    ApiKey.objects.issue(team=member(ada).team, owner=ada, name="nightly")


def lower_the_limit(bob: User, ada: User) -> None:
    Team.objects.update(key_limit=0)


def ask_for_another_name(bob: User, ada: User) -> None:
    demand(name_pattern="ci-*")


def let_admins_make_keys(bob: User, ada: User) -> None:
    demand(creators="admin")


def let_members_have_none(bob: User, ada: User) -> None:
    demand(keys_per_member=0)


def narrow_models(bob: User, ada: User) -> None:
    demand(models=("public/*",))


def narrow_endpoints(bob: User, ada: User) -> None:
    demand(endpoints=("chat",))


def let_it_expire(bob: User, ada: User) -> None:
    Remnant.objects.update(expires_at=timezone.now())


OBSTACLES = [
    (take_the_name, NameTaken, "A key with this name already exists"),
    (lower_the_limit, KeyLimitReached, "of 0 API keys"),
    (ask_for_another_name, PolicyBroken, "look like ci-*"),
    (let_admins_make_keys, PolicyBroken, "keys are made by: Admin"),
    (let_members_have_none, PolicyBroken, "at most 0 keys"),
    (narrow_models, PolicyBroken, "may call: public/*"),
    (narrow_endpoints, PolicyBroken, "Chat and text generation only"),
    (let_it_expire, HadExpired, "would have expired"),
]


@pytest.mark.parametrize(("change", "refusal", "told"), OBSTACLES)
def test_there_is_no_new_one_that_could_not_be_made_today(
    bob: User,
    ada: User,
    leak: Leak,
    change: Callable[[User, User], None],
    refusal: type[KeyRefused],
    told: str,
) -> None:
    remnant = leak(bob)
    assert obstacles(remnant, member(bob)) == []
    change(bob, ada)
    before = ApiKey.objects.count()
    remnant.refresh_from_db()
    assert [told in sentence for sentence in obstacles(remnant, member(bob))] == [True]
    with pytest.raises(refusal, match=told.replace("*", r"\*")):
        replace(remnant, actor=bob)
    assert ApiKey.objects.count() == before
    assert Remnant.objects.count() == 1
    refused = AuditEvent.objects.filter(action=Action.KEY_REFUSED)
    assert refused.count() == (refusal is KeyLimitReached)
    assert not AuditEvent.objects.filter(action=Action.KEY_REPLACED).exists()


@pytest.mark.parametrize("how", ["leaves", "becomes a viewer", "is switched off"])
def test_nobody_gets_a_key_that_could_not_work(
    alice: User, bob: User, leak: Leak, how: str
) -> None:
    remnant = leak(bob)
    if how == "leaves":
        bob.memberships.all().delete()
    elif how == "becomes a viewer":
        bob.memberships.update(role=Role.VIEWER)
    else:
        User.objects.filter(pk=bob.pk).update(is_active=False)
    (shown,) = leaks_of(member(alice)).deleted
    assert shown.obstacles == [str(NotAMember("bob"))]
    with pytest.raises(NotAMember):
        replace(remnant, actor=alice)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("act", [replace, dismiss])
@pytest.mark.parametrize("role", [Role.MEMBER, None])
def test_who_is_no_admin_any_more_does_nothing_with_anothers(
    ada: User, bob: User, leak: Leak, act: Callable[..., object], role: Role | None
) -> None:
    """Their page had let them in before, and the click waited for the lock."""
    remnant = leak(bob)
    theirs = Membership.objects.filter(user=ada)
    theirs.update(role=role) if role else theirs.delete()
    with pytest.raises((PermissionDenied, PolicyBroken)):
        act(remnant, actor=ada)
    assert Remnant.objects.count() == 1
    assert not ApiKey.objects.exists()


def test_an_owner_who_is_gone_for_good_takes_the_notice_along(
    alice: User, bob: User, leak: Leak
) -> None:
    leak(bob)
    bob.delete()
    assert leaks_of(member(alice)).deleted == []


def test_who_was_an_admin_when_the_page_was_made_is_judged_by_what_they_are(
    ada: User, bob: User, leak: Leak
) -> None:
    remnant = leak(bob)
    demand(creators="admin")
    ada.memberships.update(role=Role.MEMBER)
    with pytest.raises(PolicyBroken):
        replace(remnant, actor=ada)
    ada.memberships.all().delete()
    with pytest.raises(PolicyBroken):
        replace(remnant, actor=ada)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("end", "rules", "days"),
    [
        (None, {}, None),
        (None, {"must_expire": True}, 90),
        (None, {"longest_days": 7}, 7),
        (20, {"longest_days": 7}, 7),
        (20, {"longest_days": 30}, 20),
        (20, {"must_expire": True}, 20),
        (0.01, {}, 0.01),
    ],
)
def test_its_end_is_the_same_or_as_late_as_the_policy_allows(
    bob: User, leak: Leak, end: float | None, rules: dict[str, object], days: float | None
) -> None:
    remnant = leak(bob, expires_at=None if end is None else timezone.now() + in_days(end))
    demand(**rules)
    assert obstacles(remnant, member(bob)) == []
    new, _ = replace(remnant, actor=bob)
    if days is None:
        assert new.expires_at is None
    else:
        assert abs(left(new) - in_days(days)) < timedelta(minutes=1)


def test_its_limits_are_no_higher_than_todays(bob: User, leak: Leak) -> None:
    first, second = leak(bob, "first"), leak(bob, "second")
    Remnant.objects.filter(pk=second.pk).update(limits=Limits(requests_per_minute=2))
    lowered = Limits(requests_per_minute=5, tokens_per_day=7)
    Team.objects.update(key_limits=lowered)
    assert replace(first, actor=bob)[0].limits == lowered
    assert replace(second, actor=bob)[0].limits == lowered._replace(requests_per_minute=2)


def test_what_an_admin_granted_or_took_holds_for_the_new_one(
    ada: User, bob: User, issue: Issue
) -> None:
    Team.objects.update(key_limits=Limits(requests_per_minute=1))
    key, text = issue(bob, "nightly", actor=bob)
    end = timezone.now() + in_days(20)
    change(key, Changes(permissions=NARROW, expires_at=end), actor=ada)
    limited(key, ada, Limits(requests_per_minute=9))
    for actor in (bob, ada):
        new, plaintext = replace(report(key, text), actor=actor)
        new.refresh_from_db()
        assert (new.permissions, new.granted_permissions) == (NARROW, NARROW)
        assert (new.expires_at, new.granted_expires_at) == (end, end)
        assert new.limits == new.granted_limits == Limits(requests_per_minute=9)
        with pytest.raises(BeyondGranted):
            change(new, Changes(permissions=EVERYTHING), actor=bob)
        with pytest.raises(EndsTooLate):
            change(new, Changes(expires_at=None), actor=bob)
        with pytest.raises(AboveCeiling):
            limit_key(new, UNLIMITED, by=member(bob), address=None)
        key, text = new, plaintext.text


def test_an_admin_who_makes_it_takes_nothing_more_from_its_owner(
    ada: User, bob: User, leak: Leak
) -> None:
    remnant = leak(bob, permissions=NARROW, expires_at=timezone.now() + in_days(20))
    new, _ = replace(remnant, actor=ada)
    new.refresh_from_db()
    assert new.owner == bob
    change(new, Changes(permissions=EVERYTHING, expires_at=None), actor=bob)
    limit_key(new, Limits(requests_per_minute=9), by=member(bob), address=None)


def test_what_an_admin_had_disabled_stays_so(ada: User, bob: User, issue: Issue) -> None:
    key, text = issue(bob, actor=bob)
    changes.disable(key, actor=ada)
    new, _ = replace(report(key, text), actor=bob)
    new.refresh_from_db()
    assert new.disabled_at
    assert new.is_held
    with pytest.raises(Held):
        changes.enable(new, actor=bob)


def test_what_its_owner_had_disabled_they_enable(bob: User, issue: Issue) -> None:
    key, text = issue(bob, actor=bob)
    changes.disable(key, actor=bob)
    new, _ = replace(report(key, text), actor=bob)
    changes.enable(new, actor=bob)
    new.refresh_from_db()
    assert new.disabled_at is None


def test_what_only_a_report_had_disabled_works(bob: User, issue: Issue) -> None:
    """Of a team that disabled what leaked, and by now deletes it."""
    demand(on_leak="disable")
    key, text = issue(bob, actor=bob)
    leaks.report(Report([Found(text)]))
    rotated = rotate(key, Grace.HOUR, actor=bob)
    demand()
    new, _ = replace(report(key, rotated.text), actor=bob)
    new.refresh_from_db()
    assert new.disabled_at is None


def test_one_form_makes_one_key(bob: User, leak: Leak) -> None:
    remnant = leak(bob)
    replace(remnant, actor=bob, nonce="once")
    with pytest.raises(AlreadyCreated):
        replace(remnant, actor=bob, nonce="once")
    with pytest.raises(Remnant.DoesNotExist):
        replace(remnant, actor=bob, nonce="twice")
    assert ApiKey.objects.count() == 1


def test_a_form_that_was_refused_can_be_sent_again(bob: User, leak: Leak) -> None:
    remnant = leak(bob)
    Team.objects.update(key_limit=0)
    with pytest.raises(KeyLimitReached):
        replace(remnant, actor=bob, nonce="once")
    Team.objects.update(key_limit=1)
    replace(remnant, actor=bob, nonce="once")
    assert ApiKey.objects.count() == 1


# What stands above the pages.


def shown(user: User) -> list[str]:
    return [one.key.name for one in leaks_of(member(user)).deleted]


def test_nobody_hides_anothers_key_behind_many_of_their_own(
    alice: User, bob: User, issue: Issue, leak: Leak
) -> None:
    """Nor by handing them over."""
    mallory = User.objects.create_user("mallory")
    Membership.objects.create(team=member(alice).team, user=mallory, role=Role.MEMBER)
    leak(bob, "real")
    for number in range(7):
        leak(mallory, f"m{number}")
    for number in range(7):
        key, text = issue(mallory, f"h{number}", actor=mallory)
        hand_over(key, bob, actor=mallory)
        report(key, text)
    assert shown(alice) == ["h6", "real", "h5"]
    assert shown(bob) == ["h6", "real", "h5"]
    assert leaks_of(member(alice)).more_deleted == 12
    assert leaks_of(member(bob)).more_deleted == 5


def test_of_one_person_so_many_are_kept(
    bob: User, ada: User, leak: Leak, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remnants, "MOST", 2)
    leak(ada, "other")
    for number in range(4):
        leak(bob, f"b{number}")
    assert sorted(Remnant.objects.values_list("name", flat=True)) == ["b2", "b3", "other"]
    assert (
        Tombstone.objects.count() == AuditEvent.objects.filter(action=Action.KEY_REPORTED).count()
    )


def test_it_holds_nothing_of_the_secret(bob: User, issue: Issue) -> None:
    key, text = issue(bob, actor=bob)
    remnant = report(key, text)
    digest = secret.digest(text.encode())
    for value in vars(remnant).values():
        assert text[14:-4] not in str(value)
        assert digest != value


# At one time.


@pytest.mark.django_db(transaction=True)
def test_of_many_clicks_one_makes_the_key(bob: User, ada: User, leak: Leak) -> None:
    remnant = leak(bob)

    def click(user: User) -> object:
        try:
            return replace(remnant, actor=user)
        except Remnant.DoesNotExist:
            return None

    outcomes = at_once(*[partial(click, bob), partial(click, ada)] * 3)
    assert sum(one is not None for one in outcomes) == 1
    assert ApiKey.objects.count() == 1
    assert AuditEvent.objects.filter(action=Action.KEY_REPLACED).count() == 1


@pytest.mark.django_db(transaction=True)
def test_it_is_replaced_or_dismissed_and_never_both(bob: User, ada: User, leak: Leak) -> None:
    remnant = leak(bob)

    def attempt(act: Callable[..., object], user: User) -> bool:
        try:
            act(remnant, actor=user)
        except Remnant.DoesNotExist:
            return False
        return True

    outcomes = at_once(*[partial(attempt, replace, bob), partial(attempt, dismiss, ada)] * 3)
    assert sum(map(bool, outcomes)) == 1
    actions = [Action.KEY_REPLACED, Action.LEAK_DISMISSED]
    row = AuditEvent.objects.get(action__in=actions)
    assert ApiKey.objects.exists() == (row.action == Action.KEY_REPLACED)


@pytest.mark.django_db(transaction=True)
def test_an_owner_who_leaves_meanwhile_gets_no_key_after_it(bob: User, leak: Leak) -> None:
    remnant = leak(bob)

    def leave() -> None:
        with transaction.atomic():
            Membership.objects.filter(user=bob).delete()

    outcomes = at_once(partial(replace, remnant, actor=bob), leave)
    refusal = outcomes[0]
    assert isinstance(refusal, tuple | NotAMember)
    assert ApiKey.objects.exists() == isinstance(refusal, tuple)
