from typing import Any

from django.db.models import Count

from keyportal.teams.management.operator import OperatorCommand
from keyportal.teams.models import Team


class Command(OperatorCommand):
    help = (
        "List the teams, one per line, in columns separated by tabs: slug, number of members, key "
        "limit, `active` or `inactive`, name."
    )

    def handle(self, **options: Any) -> None:
        teams = Team.objects.order_by("slug").values_list(
            "slug", Count("memberships"), "max_keys", "is_active", "name"
        )
        for slug, members, limit, is_active, name in teams:
            state = "active" if is_active else "inactive"
            self.stdout.write(f"{slug}\t{members}\t{limit}\t{state}\t{name}")
