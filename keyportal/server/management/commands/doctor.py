import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

import keyportal
from keyportal.server.doctor import examine
from keyportal.server.doctor.findings import Finding


class Command(BaseCommand):
    help = "Look at everything that this installation needs, and say what to do."
    # It reports them itself.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, **options: Any) -> None:
        findings = list(examine())
        has_problem = any(finding.is_problem for finding in findings)
        if options["json"]:
            found = [finding._asdict() for finding in findings]
            document = {"version": keyportal.__version__, "ok": not has_problem, "findings": found}
            self.stdout.write(json.dumps(document, indent=2))
        else:
            self.stdout.write("\n".join(map(_line, findings)))
        if has_problem:
            sys.exit(1)


def _line(finding: Finding) -> str:
    mark = "PROBLEM" if finding.is_problem else "ok     "
    return f"{mark} {finding.check}: {finding.text}"
