"""What pages and the management API do with model servers, under the lock of their team."""

from keyportal.catalog.models import ServedModel, Upstream
from keyportal.teams.models import Team

MAX_TEAM_SERVERS = 10
TOO_MANY = f"A team has at most {MAX_TEAM_SERVERS} model servers."


def is_full(team: Team) -> bool:
    return team.servers.count() >= MAX_TEAM_SERVERS


def delete_server(upstream: Upstream) -> None:
    """With its models, if it is a team's.

    What an operators' server served remains as models without a route, which can get another
    server. A team could add and delete servers until the catalog is full.
    """
    models = ServedModel.objects.only_by_team_server(upstream).values_list("pk", flat=True)
    ServedModel.objects.filter(pk__in=[*models]).delete()
    upstream.delete()
