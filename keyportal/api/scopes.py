"""The scopes of a management key. Its owner's role is checked as well, at each request."""

from django.db import models


class Scope(models.TextChoices):
    """`resource:action`. Write access doesn't include read access: each has its own scope."""

    TEAMS_READ = "teams:read", "Read the team and its limits"
    TEAMS_WRITE = "teams:write", "Change the name and the slug of the team"
    TEAMS_DELETE = "teams:delete", "Switch off and delete the team"
    MEMBERS_READ = "members:read", "Read the members and invitations"
    MEMBERS_WRITE = "members:write", "Invite and remove members, and change roles"
    SERVICE_ACCOUNTS_WRITE = "service-accounts:write", "Create, change and delete service accounts"
    KEYS_READ = "keys:read", "Read API keys"
    KEYS_WRITE = "keys:write", "Create, change, rotate, disable and delete API keys"
    LIMITS_RAISE = "limits:raise", "Raise limits of API keys above those that members may set"
    MODELS_READ = "models:read", "Read the models"
    MODEL_SERVERS_READ = "model-servers:read", "Read the model servers of the team"
    MODEL_SERVERS_WRITE = "model-servers:write", "Add, change, switch and delete them"
    USAGE_READ = "usage:read", "Read the usage"
    AUDIT_READ = "audit:read", "Read the audit log"
