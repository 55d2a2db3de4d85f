import pytest

from keyportal.catalog import demo
from keyportal.catalog.models import Route
from keyportal.teams.lifecycle.changes import change_slug
from keyportal.teams.models import Membership, Role, Team, User

pytestmark = pytest.mark.any_database


@pytest.mark.django_db
def test_the_demo_model_answers_in_the_name_that_it_is_served_by() -> None:
    assert demo.create()
    route = Route.objects.get()
    assert route.upstream_model == route.model.name == f"{demo.TEAM}/test"


@pytest.mark.django_db
def test_the_demo_user_owns_the_demo_team_and_is_an_operator() -> None:
    password = demo.create()
    user = User.objects.get()
    assert (user.is_active, user.is_superuser, user.is_staff) == (True, True, True)
    assert password
    assert user.check_password(password)
    assert Membership.objects.get(user=user, role=Role.OWNER).team.slug == demo.TEAM


@pytest.mark.django_db
def test_a_start_with_the_demo_changes_no_user_who_was_there() -> None:
    """Attack: somebody with the name `demo` becomes an operator, or gets a new password."""
    User.objects.create_user(demo.USER, is_active=False)
    before = User.objects.values().get()
    assert demo.create() is None
    assert User.objects.values().get() == before
    assert not Membership.objects.exists()
    assert Team.objects.get().slug == demo.TEAM


@pytest.mark.django_db
@pytest.mark.parametrize("has_slug", [True, False])
def test_a_start_after_the_demo_was_deleted_makes_no_operator(has_slug: bool) -> None:
    """Attack: whoever reads the output of a start gets the password of a new operator."""
    assert demo.create()
    team = Team.objects.get()
    User.objects.create_superuser("olga")  # There is always an operator.
    User.objects.get(username=demo.USER).delete()
    if has_slug:
        team.delete()
    else:
        change_slug(team, "nova", actor=None)
    assert demo.create() is None
    assert User.objects.get().username == "olga"


@pytest.mark.django_db
def test_a_second_start_gives_the_demo_user_nothing_back() -> None:
    assert demo.create()
    User.objects.create_superuser("olga")  # There is always an operator.
    user = User.objects.get(username=demo.USER)
    user.is_superuser = user.is_staff = False
    user.save()
    before = User.objects.values().get(pk=user.pk)
    assert demo.create() is None
    assert User.objects.values().get(pk=user.pk) == before
