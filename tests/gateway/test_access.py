"""Which models a key may call."""

import pytest

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.access import find_model
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import CredentialUnreadable, GatewayError, ModelNotFound
from keyportal.keys.rules.permissions import NamePatterns

OURS, THEIRS = 1, 2
NAME = "u-8105f7322477/test"


@pytest.mark.parametrize(
    ("team_id", "models", "error"),
    [
        (OURS, None, CredentialUnreadable),
        (None, None, CredentialUnreadable),
        (THEIRS, None, ModelNotFound),
        (OURS, NamePatterns(["other"]), ModelNotFound),
    ],
)
def test_only_who_may_call_a_model_learns_that_its_credential_is_unreadable(
    team_id: int | None, models: NamePatterns | None, error: type[GatewayError]
) -> None:
    served = CatalogEntry(NAME, team_id, "acme", 0, (), is_unreadable=True)
    with pytest.raises(error):
        find_model({NAME: served}, NAME, Verdict(7, "7QmX2aPd", OURS, models))
