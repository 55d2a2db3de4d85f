"""Change a role, remove and leave, on the members page; what happens to keys."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from keyportal.audit.models import AuditEvent
from keyportal.keys.changes import set_managed
from keyportal.keys.models import ApiKey, ProgramSignIn
from keyportal.people.removal import remove_member
from keyportal.teams.access import Outsider
from keyportal.teams.membership.changes import change_role
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy
from tests.conftest import make_person
from tests.support.cases import own_case
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data

MEMBERS = "/teams/u-8105f7322477/members/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def role_of(user: User) -> str:
    return str(Membership.objects.get(user=user).role)


def is_member(user: User) -> bool:
    return Membership.objects.filter(user=user).exists()


def submit(client: Client, page: str, **changes: Any) -> Any:
    """Open the dialog, change some fields and submit it, as a browser without scripts."""
    opened = client.get(MEMBERS + page)
    assert opened.status_code == 200
    return client.post(MEMBERS + page, form_data(opened, **changes))


def owners_of_keys() -> dict[str, str | None]:
    """The owner of each key that works; None for one that is disabled."""
    return {
        key.name: None if key.disabled_at else key.owner.username
        for key in ApiKey.objects.select_related("owner")
    }


@pytest.mark.any_database
def test_admin_changes_a_role(sign_in: SignIn, ada: User, bob: User, team: Team) -> None:
    answer = submit(sign_in(ada), f"{bob.pk}/role/", role="viewer")
    assert (answer.status_code, answer.url) == (302, MEMBERS)
    assert role_of(bob) == "viewer"
    event = AuditEvent.objects.for_team(team).get(action="member:changed")
    assert (event.actor, event.target) == ("ada", "Member bob: Role: member → viewer")


@pytest.mark.any_database
def test_htmx_closes_the_dialog_and_reloads_the_list(
    sign_in: SignIn, alice: User, bob: User
) -> None:
    answer = sign_in(alice).post(
        f"{MEMBERS}{bob.pk}/role/", {"role": "admin"}, headers={"HX-Request": "true"}
    )
    assert answer.status_code == 204
    assert '"members-changed"' in answer["HX-Trigger"]
    assert "bob is now Admin of Acme." in answer["HX-Trigger"]


@pytest.mark.any_database
def test_admin_does_not_open_the_dialogs_of_an_owner(
    sign_in: SignIn, ada: User, alice: User
) -> None:
    client = sign_in(ada)
    for page in ("role", "remove"):
        with own_case(page):
            for answer in (
                client.get(f"{MEMBERS}{alice.pk}/{page}/"),
                client.post(f"{MEMBERS}{alice.pk}/{page}/", {"role": "viewer"}),
            ):
                assert answer.status_code == 403
                assert "Only an owner" in answer.content.decode()
            assert role_of(alice) == "owner"


@pytest.mark.any_database
def test_admin_makes_no_owner(sign_in: SignIn, ada: User, bob: User) -> None:
    assert submit(sign_in(ada), f"{bob.pk}/role/", role="owner").status_code == 422
    assert role_of(bob) == "member"


@pytest.mark.any_database
def test_last_owner_stays(sign_in: SignIn, alice: User) -> None:
    client = sign_in(alice)
    answer = submit(client, f"{alice.pk}/role/", role="admin")
    assert answer.status_code == 422
    assert "alice is the last owner" in answer.content.decode()
    page = client.get(f"{MEMBERS}leave/").content.decode()
    assert "You are the last owner" in page
    assert "confirm-remove" not in page
    answer = client.post(f"{MEMBERS}leave/")
    assert answer.status_code == 422
    assert role_of(alice) == "owner"


@pytest.mark.any_database
def test_change_since_the_dialog_was_opened_is_told(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    client = sign_in(alice)
    for page in ("role", "remove"):
        with own_case(page):
            path = f"{MEMBERS}{bob.pk}/{page}/"
            data = form_data(client.get(path), role="admin")
            Membership.objects.filter(user=bob).update(role=Role.VIEWER)
            answer = client.post(path, data)
            assert answer.status_code == 409
            assert "Changed since you opened this page: role." in answer.content.decode()
            assert role_of(bob) == "viewer"


@pytest.mark.any_database
def test_new_key_since_the_dialog_was_opened_is_told(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    client = sign_in(alice)
    path = f"{MEMBERS}{bob.pk}/remove/"
    data = form_data(client.get(path))
    issue(bob, "nightly")
    answer = client.post(path, data)
    assert answer.status_code == 409
    assert "nightly" in answer.content.decode()
    assert is_member(bob)


@pytest.mark.any_database
def test_role_of_whoever_changes_is_lowered_while_the_form_is_open(
    sign_in: SignIn, ada: User, bob: User
) -> None:
    client = sign_in(ada)
    path = f"{MEMBERS}{bob.pk}/role/"
    data = form_data(client.get(path), role="admin")
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    assert client.post(path, data).status_code == 403
    assert role_of(bob) == "member"


@pytest.mark.any_database
def test_dialog_says_which_keys_stop(
    sign_in: SignIn, alice: User, bob: User, issue: Issue, other_team: Team
) -> None:
    Membership.objects.create(team=other_team, user=bob)
    issue(bob, "nightly")
    issue(bob, "elsewhere", team=other_team)
    page = sign_in(alice).get(f"{MEMBERS}{bob.pk}/remove/").content.decode()
    assert "nightly" in page
    assert "elsewhere" not in page
    assert "Nobody: they stop" in page
    assert "No calls used this key in the last 24 hours." in page


@pytest.mark.any_database
def test_removed_member_has_no_keys_and_no_session(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    issue(bob, "nightly")
    bobs = Client()
    bobs.force_login(bob)
    answer = submit(sign_in(alice), f"{bob.pk}/remove/")
    assert answer.status_code == 302
    assert not is_member(bob)
    assert owners_of_keys() == {"nightly": None}
    assert bobs.get(MEMBERS).status_code == 302  # To the sign-in.


@pytest.mark.any_database
def test_all_keys_are_handed_over_to_one(
    sign_in: SignIn, alice: User, ada: User, bob: User, vera: User, issue: Issue, team: Team
) -> None:
    for name in ("one", "two"):
        issue(bob, name)
    page = sign_in(alice).get(f"{MEMBERS}{bob.pk}/remove/").content.decode()
    assert f'value="{ada.pk}"' in page
    assert f'value="{vera.pk}"' not in page  # A viewer can't own keys.
    assert submit(sign_in(alice), f"{bob.pk}/remove/", to=ada.pk).status_code == 302
    assert owners_of_keys() == {"one": "ada", "two": "ada"}
    assert not is_member(bob)
    handed = AuditEvent.objects.for_team(team).filter(action="key:handed-over")
    assert [event.actor for event in handed] == ["alice", "alice"]


@pytest.mark.any_database
def test_key_of_a_program_does_not_keep_a_member_from_being_removed(
    sign_in: SignIn, alice: User, ada: User, bob: User, issue: Issue
) -> None:
    """Attack: a member who is to go signs in with a program again and again."""
    issue(bob, "batch")
    key, _ = issue(bob, "agent")
    ProgramSignIn.objects.create(
        device_digest=b"d", user_code_digest="u", client="agent", user=bob, team=key.team, key=key
    )
    assert submit(sign_in(alice), f"{bob.pk}/remove/", to=ada.pk).status_code == 302
    assert not is_member(bob)
    assert owners_of_keys() == {"batch": "ada", "agent": None}


@pytest.mark.any_database
def test_each_key_goes_to_another_one(
    sign_in: SignIn, alice: User, ada: User, bob: User, issue: Issue
) -> None:
    keys = {name: issue(bob, name)[0].public_id for name in ("one", "two", "three")}
    changes = {f"to_{keys['one']}": alice.pk, f"to_{keys['two']}": "stop", "to": ada.pk}
    assert submit(sign_in(alice), f"{bob.pk}/remove/", **changes).status_code == 302
    assert owners_of_keys() == {"one": "alice", "two": None, "three": "ada"}


@pytest.mark.any_database
def test_nothing_happens_if_one_key_cannot_be_handed_over(
    sign_in: SignIn, alice: User, ada: User, bob: User, issue: Issue, team: Team
) -> None:
    for name in ("one", "two"):
        issue(bob, name)
    Team.objects.update(policy=Policy(max_keys_per_member=1))
    answer = submit(sign_in(alice), f"{bob.pk}/remove/", to=ada.pk)
    assert answer.status_code == 422
    assert "at most 1 keys" in answer.content.decode()
    assert owners_of_keys() == {"one": "bob", "two": "bob"}
    assert is_member(bob)


@pytest.mark.any_database
def test_keys_go_to_no_stranger(
    sign_in: SignIn, alice: User, bob: User, vera: User, charlie: User, issue: Issue
) -> None:
    client = sign_in(alice)
    for to in ("outsider", "viewer"):
        with own_case(to):
            issue(bob, "one")
            pk = {"outsider": charlie, "viewer": vera}[to].pk
            assert submit(client, f"{bob.pk}/remove/", to=pk).status_code == 422
            assert is_member(bob)


@pytest.mark.any_database
def test_member_leaves_and_stays_signed_in_here(
    sign_in: SignIn, bob: User, ada: User, issue: Issue, other_team: Team
) -> None:
    Membership.objects.create(team=other_team, user=bob)
    issue(bob, "one")
    elsewhere = Client()
    elsewhere.force_login(bob)
    client = sign_in(bob)
    former = client.session.session_key
    answer = submit(client, "leave/", to=ada.pk)
    assert (answer.status_code, answer.url) == (302, "/")
    assert owners_of_keys() == {"one": "ada"}
    assert client.session.session_key != former
    page = client.get(f"/teams/{other_team.slug}/members/")
    assert "You are no longer in Acme." in page.content.decode()
    assert client.get(MEMBERS).status_code == 404
    assert elsewhere.get("/").url.startswith("/accounts/login/")  # type: ignore[attr-defined]


@pytest.mark.any_database
def test_member_does_not_hand_over_a_key_that_an_admin_manages(
    sign_in: SignIn, bob: User, ada: User, alice: User, issue: Issue
) -> None:
    key, _ = issue(bob, "one")
    set_managed(key, True, actor=alice)
    answer = submit(sign_in(bob), "leave/", to=ada.pk)
    assert answer.status_code == 422
    assert "An admin manages this key" in answer.content.decode()
    assert is_member(bob)


@pytest.mark.any_database
def test_viewer_leaves_without_handing_over(
    sign_in: SignIn, vera: User, ada: User, issue: Issue
) -> None:
    Membership.objects.filter(user=vera).update(role=Role.MEMBER)
    issue(vera, "one")
    Membership.objects.filter(user=vera).update(role=Role.VIEWER)
    client = sign_in(vera)
    assert 'name="to"' not in client.get(f"{MEMBERS}leave/").content.decode()
    assert submit(client, "leave/").status_code == 302
    assert owners_of_keys() == {"one": None}


@pytest.mark.any_database
def test_htmx_leaves_the_page_too(sign_in: SignIn, bob: User) -> None:
    answer = sign_in(bob).post(f"{MEMBERS}leave/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer["HX-Redirect"]) == (204, "/")
    assert not is_member(bob)


@pytest.mark.any_database
def test_person_of_another_team_is_not_found(sign_in: SignIn, alice: User, charlie: User) -> None:
    client = sign_in(alice)
    for page in ("role", "remove"):
        assert client.get(f"{MEMBERS}{charlie.pk}/{page}/").status_code == 404
        assert client.post(f"{MEMBERS}{charlie.pk}/{page}/", {"role": "viewer"}).status_code == 404
    assert role_of(charlie) == "owner"


@pytest.mark.any_database
def test_second_removal_is_not_found(sign_in: SignIn, alice: User, bob: User) -> None:
    client = sign_in(alice)
    submit(client, f"{bob.pk}/remove/")
    assert client.post(f"{MEMBERS}{bob.pk}/remove/").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_demoted_admin_neither_removes_nor_takes_keys(
    team: Team, alice: User, ada: User, bob: User, issue: Issue
) -> None:
    """Attack: an admin's removal of somebody waits for the lock while they are demoted."""
    issue(bob, "one")
    results = run_concurrently(
        lambda: remove_member(team, bob, actor=ada, address=None, to=ada),
        lambda: change_role(team, ada, Role.VIEWER, actor=alice),
    )
    was_first = results[0] is None
    assert owners_of_keys() == {"one": "ada" if was_first else "bob"}
    assert is_member(bob) != was_first


@pytest.mark.django_db(transaction=True)
def test_keys_go_to_nobody_who_leaves_at_the_same_time(
    team: Team, alice: User, bob: User, issue: Issue
) -> None:
    issue(bob, "one")
    dora = make_person("dora", team, Role.MEMBER)
    run_concurrently(
        lambda: remove_member(team, bob, actor=alice, address=None, to=dora),
        lambda: remove_member(team, dora, actor=dora, address=None),
    )
    assert not is_member(dora)
    # Either bob's removal was first, and dora's key stopped with her; or it was refused.
    assert owners_of_keys() == ({"one": "bob"} if is_member(bob) else {"one": None})


@pytest.mark.django_db(transaction=True)
def test_member_is_removed_once(team: Team, alice: User, ada: User, bob: User) -> None:
    results = run_concurrently(
        lambda: remove_member(team, bob, actor=alice, address=None),
        lambda: remove_member(team, bob, actor=ada, address=None),
    )
    assert sum(isinstance(result, Outsider) for result in results) == 1
    events = AuditEvent.objects.for_team(team).filter(target="Member bob: deleted")
    assert events.count() == 1
