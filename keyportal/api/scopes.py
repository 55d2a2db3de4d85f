"""What a management key may be used for. Its owner's role decides as well, at each request."""

from django.db import models


class Scope(models.TextChoices):
    """`resource:act`. Reading is no part of writing: each is given by itself."""

    TEAMS_READ = "teams:read", "Read the team and its limits"
    MEMBERS_READ = "members:read", "Read the members"
    KEYS_READ = "keys:read", "Read API keys"
    KEYS_WRITE = "keys:write", "Make, change, rotate, switch off and delete API keys"
    LIMITS_RAISE = "limits:raise", "Raise limits of API keys above what members may give"
    MODELS_READ = "models:read", "Read the models"
    USAGE_READ = "usage:read", "Read what was used"
    AUDIT_READ = "audit:read", "Read the audit"
