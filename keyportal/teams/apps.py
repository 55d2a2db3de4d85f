from django.apps import AppConfig


class TeamsConfig(AppConfig):
    name = "keyportal.teams"
    label = "teams"

    def ready(self) -> None:
        # Importing them registers and connects them.
        from keyportal.teams import lookups, signals  # noqa: F401
        from keyportal.teams.openid import receivers, stored  # noqa: F401
        from keyportal.teams.sign_in import sessions  # noqa: F401
