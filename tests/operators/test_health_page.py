"""The page of what `doctor` finds."""

import pytest
from django.test import Client

from keyportal.operators.views import health
from keyportal.server.doctor.findings import ok, problem

pytestmark = pytest.mark.any_database


def test_page_shows_what_doctor_finds(operator: Client) -> None:
    text = operator.get("/operators/health/").content.decode()
    for check in ("Database", "Migrations", "Disk", "Public address"):
        assert f'<span class="name">{check}</span>' in text
    assert "problem" in text  # Nothing answers at the public address of these tests.


@pytest.mark.parametrize("is_well", [True, False])
def test_page_says_whether_there_is_a_problem(
    operator: Client, monkeypatch: pytest.MonkeyPatch, is_well: bool
) -> None:
    finding = ok("disk", "<Plenty>") if is_well else problem("disk", "<Make room>")
    monkeypatch.setattr(health, "examine", lambda: iter([finding]))
    text = operator.get("/operators/health/").content.decode()
    assert ("Everything is in order." in text) is is_well
    assert ("1 problem." in text) is not is_well
    assert "&lt;" in text
