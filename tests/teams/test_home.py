"""The home page, the navigation of every page, and the error pages."""

from collections.abc import Callable

import pytest
from django.template.loader import render_to_string
from django.test import Client

import keyportal
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.cases import case, own_case

pytestmark = pytest.mark.any_database

SignIn = Callable[[User], Client]


def test_home_redirects_to_the_keys_of_the_users_team(sign_in: SignIn, bob: User) -> None:
    response = sign_in(bob).get("/")
    assert response.status_code == 302
    assert response["Location"] == "/teams/u-8105f7322477/keys/"


def test_home_redirects_to_the_team_that_was_opened_last(
    sign_in: SignIn, bob: User, other_team: Team
) -> None:
    Membership.objects.create(team=other_team, user=bob, role=Role.VIEWER)
    client = sign_in(bob)
    assert client.get("/")["Location"] == "/teams/u-8105f7322477/keys/"  # Acme, the first by name.
    client.get("/teams/u-0000000000cc/keys/")
    assert client.get("/")["Location"] == "/teams/u-0000000000cc/keys/"
    Team.objects.filter(pk=other_team.pk).update(is_active=False)
    assert client.get("/")["Location"] == "/teams/u-8105f7322477/keys/"


def test_a_user_without_a_team_is_told_so(sign_in: SignIn, db: None) -> None:
    response = sign_in(User.objects.create_user("zoe")).get("/")
    assert response.status_code == 200
    assert "ask an owner or admin of one to invite you" in response.content.decode()


def test_post_is_refused(sign_in: SignIn, bob: User) -> None:
    assert sign_in(bob).post("/").status_code == 405


def test_team_switcher_is_shown_only_for_several_teams(
    sign_in: SignIn, bob: User, other_team: Team
) -> None:
    client, keys = sign_in(bob), "/teams/u-8105f7322477/keys/"
    assert 'aria-label="Teams"' not in client.get(keys).content.decode()
    Membership.objects.create(team=other_team, user=bob)
    text = client.get(keys).content.decode()
    assert 'aria-label="Teams"' in text
    assert 'href="/teams/u-0000000000cc/keys/"' in text


def test_navigation_shows_what_a_role_may_open(sign_in: SignIn, bob: User, ada: User) -> None:
    pages = ("keys", "keys/create", "models", "members", "settings", "policy", "health", "guide")
    for user, sees_audit in ((bob, False), (ada, True)):
        client = sign_in(user)
        for page in pages:
            with case(user, page):
                text = client.get(f"/teams/u-8105f7322477/{page}/").content.decode()
                assert ("/teams/u-8105f7322477/audit/" in text) is sees_audit
                sidebar = text.partition('aria-label="Pages"')[2].partition("</nav>")[0]
                assert sidebar.count('aria-current="page"') == 1


def test_settings_show_the_tabs_that_a_role_may_open(
    sign_in: SignIn, bob: User, team: Team
) -> None:
    cases: list[tuple[Role, list[str]]] = [
        (Role.VIEWER, []),
        (Role.MEMBER, ["settings", "policy"]),
        (Role.ADMIN, ["settings", "limits", "policy", "templates"]),
    ]
    client = sign_in(bob)
    for role, tabs in cases:
        with own_case(role, tabs):
            Membership.objects.filter(team=team, user=bob).update(role=role)
            text = client.get("/teams/u-8105f7322477/members/").content.decode()
            assert ("<span>Settings</span>" in text) == bool(tabs)
            all_tabs = ("settings", "limits", "policy", "templates")
            for tab in all_tabs:
                response = client.get(f"/teams/u-8105f7322477/{tab}/")
                assert response.status_code == (200 if tab in tabs else 403)
                links = response.content.decode().partition('aria-label="Settings"')[2]
                links = links.partition("</nav>")[0]
                expected = tabs if tab in tabs else []
                assert [each for each in all_tabs if f"/{each}/" in links] == expected
                assert links.count('aria-current="page"') == bool(expected)


PAGES_OF_A_KEY = [
    *("", "delete/", "limits/", "permissions/", "edit/", "expiry/", "hand-over/"),
    *("disable/", "enable/", "rotate/"),
]


def test_keys_are_the_current_item_on_each_page_of_a_key(
    sign_in: SignIn, bob: User, issue: Callable[..., tuple[ApiKey, str]]
) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    for page in PAGES_OF_A_KEY:
        with case(page):
            text = client.get(f"/teams/u-8105f7322477/keys/{key.public_id}/{page}").content.decode()
            here = text.partition('aria-label="Pages"')[2].partition('aria-current="page"')[2]
            assert "API Keys" in here.partition("</a>")[0]


def test_only_staff_see_the_version_and_a_link_to_the_admin(sign_in: SignIn, alice: User) -> None:
    client = sign_in(alice)
    version = f"Keyportal {keyportal.__version__}"
    text = client.get("/", follow=True).content.decode()
    assert "/admin/" not in text
    assert version not in text
    User.objects.update(is_staff=True)
    text = client.get("/", follow=True).content.decode()
    assert 'href="/admin/"' in text
    assert version in text


def test_pages_run_no_inline_code(sign_in: SignIn, alice: User) -> None:
    text = sign_in(alice).get("/", follow=True).content.decode()
    assert "<script>" not in text
    assert " style=" not in text
    assert " onclick=" not in text
    assert " hx-on" not in text
    assert '"allowEval": false' in text
    assert '"historyCacheSize": 0' in text


def test_an_unknown_url_gets_our_404_page(client: Client, db: None) -> None:
    response = client.get("/nowhere/")
    assert response.status_code == 404
    assert "Not found" in response.content.decode()


@pytest.mark.parametrize(("template", "title"), [("400", "Bad request"), ("500", "went wrong")])
def test_400_and_500_pages_render_without_context(template: str, title: str) -> None:
    assert title in render_to_string(f"{template}.html")
