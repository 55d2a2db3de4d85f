import pytest

from keyportal.catalog import demo
from keyportal.catalog.models import Route

pytestmark = pytest.mark.any_database


@pytest.mark.django_db
def test_the_demo_model_answers_in_the_name_that_it_is_served_by() -> None:
    assert demo.create()
    route = Route.objects.get()
    assert route.upstream_model == route.model.name == f"{demo.TEAM}/test"
