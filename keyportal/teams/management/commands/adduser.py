import secrets
from typing import Any

from django.contrib.auth.password_validation import validate_password
from django.core.management.base import CommandParser

from keyportal.teams.management.operator import OperatorCommand, read_environment
from keyportal.teams.models import User


class Command(OperatorCommand):
    help = (
        "Create a user. Without --password-env, print a random password, once. "
        "The user must change the password at the first sign-in."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--email", default="", help="for sign-in and password reset")
        parser.add_argument(
            "--password-env",
            metavar="VARIABLE",
            help="environment variable that holds the password",
        )
        parser.add_argument("--staff", action="store_true", help="allow access to /admin/")
        parser.add_argument(
            "--superuser",
            action="store_true",
            help="allow every action in /admin/; includes --staff",
        )

    def handle(self, **options: Any) -> None:
        user = User(
            username=options["username"],
            email=User.objects.normalize_email(options["email"]),
            is_staff=options["staff"] or options["superuser"],
            is_superuser=options["superuser"],
            must_change_password=True,
        )
        variable = options["password_env"]
        password = read_environment(variable) if variable else secrets.token_hex(10)
        validate_password(password, user)
        user.set_password(password)
        user.full_clean()
        user.save()
        if not variable:
            self.stdout.write(password)
        self.note(f"Created the user {user}.")
