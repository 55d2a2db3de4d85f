"""Another slug for a team: what follows it, and how long the former slug works."""

from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.management import CommandError
from django.test import Client
from django.utils import timezone

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.aliases import Alias
from keyportal.catalog.former_names import forget_outlived
from keyportal.catalog.models import CatalogVersion, Route, ServedModel
from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.access import callable_models, find_model
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import ModelNotAllowed, ModelNotFound
from keyportal.keys.models import ApiKey, KeyTemplate
from keyportal.keys.rules.permissions import NamePatterns, Permissions
from keyportal.teams.lifecycle import changes
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, UsedSlug, User
from keyportal.teams.openid.grants import teams_by_slug
from keyportal.teams.policy import Policy
from keyportal.teams.service_accounts.changes import create as create_account
from keyportal.usage.models import UsageDay
from tests.support.cases import own_case
from tests.support.commands import run
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data
from tests.support.verdicts import read_verdict

OLD, TEAM = "u-8105f7322477", "/teams/u-8105f7322477"
SLUG = f"{TEAM}/settings/slug/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def age(slug: str, days: int) -> None:
    UsedSlug.objects.filter(slug=slug).update(replaced_at=timezone.now() - timedelta(days=days))


@pytest.mark.any_database
def test_owner_changes_it(sign_in: SignIn, alice: User, team: Team) -> None:
    client = sign_in(alice)
    data = form_data(client.get(SLUG), slug="nova")
    response = client.post(SLUG, data, follow=True)
    assert response.redirect_chain == [("/teams/nova/settings/", 302)]
    page = response.content.decode()
    assert "The slug is nova now." in page
    assert f"<code>{OLD}</code> works until" in page
    team.refresh_from_db()
    assert (team.slug, team.history_slug) == ("nova", OLD)
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert (event.target, event.actor) == (f"Team: Slug: {OLD} → nova", "alice")


@pytest.mark.any_database
def test_history_stays(sign_in: SignIn, alice: User, team: Team, issue: Issue) -> None:
    """Audit, receipts and usage of before are still those of the team."""
    key, _ = issue(alice)
    day = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)
    usage = {"team_slug": OLD, "public_id": key.public_id, "owner_id": alice.pk, "model": "m"}
    UsageDay.objects.create(start=day, requests=3, **usage)
    changes.change_slug(team, "nova", actor=alice)
    team.refresh_from_db()
    key.revoke(actor=alice)
    client = sign_in(alice)
    page = client.get("/teams/nova/audit/").content.decode()
    assert "Key created" in page
    assert "Key deleted" in page
    assert client.get(f"/teams/nova/keys/{key.public_id}/receipt/").status_code == 200
    assert UsageDay.objects.for_team(team).get().requests == 3


@pytest.mark.any_database
def test_former_addresses_redirect(sign_in: SignIn, bob: User, team: Team, issue: Issue) -> None:
    key, _ = issue(bob)
    changes.change_slug(team, "nova", actor=None)
    client = sign_in(bob)
    for path in ("keys/?q=x&sort=name", f"keys/{key.public_id}/", "settings/"):
        response = client.get(f"{TEAM}/{path}")
        assert (response.status_code, response["Location"]) == (307, f"/teams/nova/{path}")
    response = client.post(f"{TEAM}/keys/{key.public_id}/disable/", follow=True)
    assert response.redirect_chain[0] == (f"/teams/nova/keys/{key.public_id}/disable/", 307)
    key.refresh_from_db()
    assert key.disabled_by == "owner"


@pytest.mark.any_database
def test_former_addresses_are_not_told_to_others(
    sign_in: SignIn, charlie: User, team: Team
) -> None:
    changes.change_slug(team, "nova", actor=None)
    for slug in (OLD, "nova"):
        assert sign_in(charlie).get(f"/teams/{slug}/keys/").status_code == 404


@pytest.mark.any_database
def test_former_slug_works_for_90_days(
    sign_in: SignIn, bob: User, team: Team, model: ServedModel
) -> None:
    changes.change_slug(team, "nova", actor=None)
    client = sign_in(bob)
    age(OLD, 89)
    assert client.get(f"{TEAM}/keys/").status_code == 307
    assert f"{OLD}/test" in Snapshot.read("default").models
    age(OLD, 91)
    assert client.get(f"{TEAM}/keys/").status_code == 404
    assert [*Snapshot.read("default").models] == ["nova/test"]
    assert OLD not in client.get("/teams/nova/settings/").content.decode()


@pytest.mark.any_database
def test_workers_learn_of_the_end(team: Team, model: ServedModel) -> None:
    changes.change_slug(team, "nova", actor=None)
    version = CatalogVersion.objects.get().version
    forget_outlived()
    assert CatalogVersion.objects.get().version == version
    age(OLD, 91)
    forget_outlived()
    known = CatalogVersion.objects.get().version
    assert known != version
    forget_outlived()
    assert CatalogVersion.objects.get().version == known


@pytest.mark.any_database
def test_slug_takes_no_alias_away_from_others(team: Team, model: ServedModel) -> None:
    """A model goes before an alias of its name, and is of this team only."""
    public = ServedModel.objects.create(name="public/large")
    Alias.objects.create(name="meta/test", model=public)
    with pytest.raises(ValidationError, match="meta/test is the name of another one"):
        changes.change_slug(team, "meta", actor=None)
    team.refresh_from_db()
    assert team.slug == OLD


@pytest.mark.any_database
def test_slug_stays_with_its_team_after_its_time(team: Team) -> None:
    """Otherwise groups that name the team by it take the roles of its members back."""
    changes.change_slug(team, "nova", actor=None)
    age(OLD, 91)
    forget_outlived()
    assert teams_by_slug([OLD]) == {OLD: team}
    changes.change_slug(Team.objects.get(pk=team.pk), OLD, actor=None)
    team.refresh_from_db()
    assert team.slug == OLD
    assert not UsedSlug.objects.get(slug=OLD).is_end_known


@pytest.mark.any_database
def test_model_names_follow_and_former_names_work(team: Team, model: ServedModel) -> None:
    public = ServedModel.objects.create(name="public/x")
    Route.objects.create(
        model=public, upstream=model.routes.get().upstream, upstream_model="loopback"
    )
    version = CatalogVersion.objects.get().version
    changes.change_slug(team, "nova", actor=None)
    model.refresh_from_db()
    assert model.name == "nova/test"
    assert CatalogVersion.objects.get().version != version
    models = Snapshot.read("default").models
    verdict = Verdict(1, "AbCd1234", team.pk)
    for name in ("nova/test", f"{OLD}/test"):
        assert find_model(models, name, verdict).name == "nova/test"
    listed = {entry.id: entry for entry in callable_models(models, verdict)}
    assert {*listed} == {"nova/test", f"{OLD}/test", "public/x"}
    end = UsedSlug.objects.get(slug=OLD).works_until
    assert end is not None
    assert (listed[f"{OLD}/test"].retires_on, listed[f"{OLD}/test"].successor) == (
        end.date(),
        "nova/test",
    )
    assert [name for name, _ in listed[f"{OLD}/test"].headers] == [b"deprecation", b"sunset"]
    assert listed["nova/test"].headers == ()
    assert find_model(models, "nova/test", verdict).owned_by == "nova"
    with pytest.raises(ModelNotFound):
        find_model(models, f"{OLD}/test", Verdict(2, "AbCd1234", team.pk + 1))
    narrow = verdict._replace(models=NamePatterns(["public/*", f"{OLD}/*"]))
    for name in ("nova/test", f"{OLD}/test"):
        with pytest.raises(ModelNotAllowed):
            find_model(models, name, narrow)


@pytest.mark.any_database
def test_models_page_tells_the_former_names(
    sign_in: SignIn, vera: User, team: Team, model: ServedModel
) -> None:
    changes.change_slug(team, "nova", actor=None)
    page = sign_in(vera).get("/teams/nova/models/").content.decode()
    assert f"Names that begin with <code>{OLD}/</code> work until" in page
    assert ">nova/test</code>" in page


@pytest.mark.any_database
def test_permissions_follow(team: Team, alice: User, issue: Issue) -> None:
    key, _ = issue(alice, "one", permissions=Permissions(models=(f"{OLD}/test", "public/*")))
    free, _ = issue(alice, "two")
    template = KeyTemplate.objects.create(team=team, name="CI", allowed_models=[f"{OLD}/*"])
    program, _ = ManagementKey.objects.issue(
        team=team,
        owner=alice,
        name="deploy",
        scopes=[Scope.KEYS_READ],
        actor=None,
        permissions=Permissions(models=("u-81*",)),
    )
    Team.objects.update(policy=Policy(models=(f"{OLD}/*", "public/*"), must_expire=True))
    changes.change_slug(team, "nova", actor=alice)
    for row in (key, free, template, program, team):
        row.refresh_from_db()
    assert key.allowed_models == ["nova/test", "public/*"]
    assert free.allowed_models == []
    assert template.allowed_models == ["nova/*"]
    assert program.allowed_models == ["nova/*", "u-81*"]
    assert team.policy == Policy(models=("nova/*", "public/*"), must_expire=True)


@pytest.mark.any_database
def test_service_accounts_follow(team: Team, alice: User) -> None:
    account = create_account(team, "ci", "ci@example.com", actor=None)
    changes.change_slug(team, "nova", actor=alice)
    account.refresh_from_db()
    assert account.username == "ci@nova"


@pytest.mark.any_database
def test_slugs_that_it_does_not_get(
    sign_in: SignIn, alice: User, team: Team, other_team: Team, model: ServedModel, issue: Issue
) -> None:
    """Nothing is changed then, neither the slug nor what follows it."""
    cases: list[tuple[str, str]] = [
        ("", "Enter a slug."),
        ("Nova", "lower-case"),
        ("public", "reserved"),
        ("gone", "Another team has or had this slug."),
        ("u-0000000000cc", "Another team has or had this slug."),
        ("taken", "A model can"),
        ("wide", "would match more"),
    ]
    client = sign_in(alice)
    for slug, error in cases:
        with own_case(slug, error):
            UsedSlug.objects.create(slug="gone")
            ServedModel.objects.create(name="taken/test")
            issue(alice, "eager", permissions=Permissions(models=("wi*",)))
            response = client.post(SLUG, {"slug": slug})
            assert response.status_code == 422
            assert error in str(response.context["form"].errors["slug"])
            team.refresh_from_db()
            model.refresh_from_db()
            assert (team.slug, model.name) == (OLD, f"{OLD}/test")
            assert UsedSlug.objects.filter(team=team).get().replaced_at is None


def test_no_other_team_gets_the_former_slug(team: Team, other_team: Team, alice: User) -> None:
    changes.change_slug(team, "nova", actor=alice)
    age(OLD, 500)
    forget_outlived()
    with pytest.raises(ValidationError, match="never used again"):
        changes.change_slug(other_team, OLD, actor=None)
    with pytest.raises(ValidationError):
        Team(name="Heir", slug=OLD).full_clean()


@pytest.mark.any_database
def test_team_gets_its_former_slug_back(
    sign_in: SignIn, alice: User, team: Team, model: ServedModel
) -> None:
    changes.change_slug(team, "nova", actor=alice)
    changes.change_slug(team, OLD, actor=alice)
    model.refresh_from_db()
    assert model.name == f"{OLD}/test"
    client = sign_in(alice)
    assert client.get(f"{TEAM}/keys/").status_code == 200
    assert client.get("/teams/nova/keys/").status_code == 307


@pytest.mark.any_database
def test_several_changes_lead_to_the_present_slug(
    sign_in: SignIn, alice: User, team: Team, model: ServedModel
) -> None:
    changes.change_slug(team, "nova", actor=alice)
    changes.change_slug(team, "vega", actor=alice)
    client = sign_in(alice)
    for slug in (OLD, "nova"):
        assert client.get(f"/teams/{slug}/keys/")["Location"] == "/teams/vega/keys/"
    models = Snapshot.read("default").models
    assert {name for name, entry in models.items() if entry.name == "vega/test"} == {
        f"{OLD}/test",
        "nova/test",
        "vega/test",
    }


@pytest.mark.any_database
@pytest.mark.parametrize("role", [Role.MEMBER, Role.ADMIN])
def test_weaker_roles_do_not_change_it(sign_in: SignIn, bob: User, team: Team, role: Role) -> None:
    Membership.objects.filter(user=bob).update(role=role)
    assert sign_in(bob).post(SLUG, {"slug": "nova"}).status_code == 403
    with pytest.raises(PermissionDenied):
        changes.change_slug(team, "nova", actor=bob)


@pytest.mark.any_database
def test_slug_that_somebody_else_changed_in_the_meantime(
    sign_in: SignIn, alice: User, team: Team
) -> None:
    client = sign_in(alice)
    data = form_data(client.get(SLUG), slug="vega")
    changes.change_slug(team, "nova", actor=None)
    response = client.post(SLUG, data, follow=True)
    assert response.redirect_chain == [("/teams/nova/settings/slug/", 307)]
    assert response.status_code == 409
    assert "Changed since you opened this page: slug." in response.content.decode()


@pytest.mark.django_db(transaction=True)
def test_two_owners_change_it_at_once(team: Team, alice: User, bob: User) -> None:
    Membership.objects.filter(user=bob).update(role=Role.OWNER)
    run_concurrently(
        partial(changes.change_slug, team, "nova", actor=alice),
        partial(changes.change_slug, team, "vega", actor=bob),
    )
    team.refresh_from_db()
    used = dict(UsedSlug.objects.filter(team=team).values_list("slug", "replaced_at"))
    assert set(used) == {OLD, "nova", "vega"}
    assert [slug for slug, replaced_at in used.items() if replaced_at is None] == [team.slug]
    assert AuditEvent.objects.filter(action=Action.TEAM_CHANGED).count() == 2


@pytest.mark.django_db(transaction=True)
def test_two_teams_want_one_slug(team: Team, other_team: Team) -> None:
    def take(wanting: Team) -> str:
        try:
            changes.change_slug(wanting, "nova", actor=None)
        except ValidationError:
            return "refused"
        return "changed"

    outcomes = run_concurrently(partial(take, team), partial(take, other_team))
    assert sorted(map(str, outcomes)) == ["changed", "refused"]
    assert Team.objects.filter(slug="nova").count() == 1


@pytest.mark.any_database
def test_commands_know_the_former_slug(team: Team) -> None:
    assert run("setteam", OLD, "--slug", "nova")[0][0].startswith("nova: Acme")
    assert run("setteam", OLD, "--max-keys", "7")[0][0].startswith("nova: Acme, at most 7")
    age(OLD, 91)
    with pytest.raises(CommandError, match="no team with the slug"):
        run("setteam", OLD, "--max-keys", "8")


@pytest.mark.django_db(transaction=True, databases=["default", "admission"])
def test_usage_and_counters_go_on_under_the_first_slug(
    team: Team, alice: User, issue: Issue
) -> None:
    """Attack: another slug resets the limits of the team."""
    Team.objects.update(limits=Limits(requests_per_day=5))
    _, key_string = issue(alice)
    before = read_verdict(key_string)
    changes.change_slug(team, "nova", actor=alice)
    after = read_verdict(key_string)
    assert (before.team_slug, before.current_slug) == (OLD, OLD)
    assert (after.team_slug, after.current_slug) == (OLD, "nova")
    assert after.buckets == before.buckets != ()
