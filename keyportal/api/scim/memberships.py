"""The roles in teams that groups of the directory give, by KEYPORTAL_SCIM_GROUPS."""

from django.conf import settings

from keyportal.teams.models import User
from keyportal.teams.openid import grants
from keyportal.teams.openid.configuration import SCIM
from keyportal.teams.sign_in.unproved import give_to_owner_of_address


def apply(user: User) -> None:
    groups = user.provisioned_groups.values_list("name", flat=True)
    grants.apply(user, SCIM, settings.SCIM_GROUPS, [*groups])
    # After the teams are locked, which comes before the lock on a person.
    give_to_owner_of_address(user)
