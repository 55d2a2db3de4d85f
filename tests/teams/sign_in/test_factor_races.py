"""Sign-ins at the same moment with one code, as on several workers: only one gets in."""

from functools import partial

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.teams.models import User
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data
from tests.support.totp import code
from tests.teams.sign_in.test_factors import CODE, add_on_the_page, enter_password

CROWD = 4  # Five wrong codes would be too many.


@pytest.mark.parametrize("kind", ["authenticator app", "recovery code"])
def test_one_code_signs_one_browser_in(
    transactional_db: None, kind: str, alice: User, settings: Settings
) -> None:
    cache.clear()  # It has the counts of wrong codes, and is not emptied after a test.
    secret, recovery_codes = add_on_the_page(Client(), alice)
    browsers = [enter_password("alice") for _ in range(CROWD)]
    forms = [form_data(browser.get(CODE)) for browser in browsers]
    before = AuditEvent.objects.filter(action=Action.SIGNED_IN).count()
    # The 30 seconds of the code may end before the last request.
    settings.MFA_TOTP_TOLERANCE = 1
    text = code(secret) if kind == "authenticator app" else recovery_codes[0]

    def enter(browser: Client, form: dict[str, object]) -> int:
        return browser.post(CODE, form | {"code": text}).status_code

    answers = run_concurrently(*map(partial, [enter] * CROWD, browsers, forms))
    assert sorted(answers, key=str) == [200] * (CROWD - 1) + [302]
    assert AuditEvent.objects.filter(action=Action.SIGNED_IN).count() == before + 1
