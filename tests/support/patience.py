"""Time limits of a database for tests.

Those of the product are two seconds. A busy machine may need more for work of milliseconds.
"""

import re
from typing import Any

from keyportal.database import statement_watch

PATIENCE = 60.0
"""Seconds."""


def be_patient(databases: dict[str, dict[str, Any]]) -> None:
    """Change Django's DATABASES, and keep a session whose process waits for the processor."""
    statement_watch.FIRST_CHECK_SECONDS = PATIENCE
    for alias, database in databases.items():
        options = database["OPTIONS"]
        if "connect_timeout" not in options:  # SQLite
            options["timeout"] = PATIENCE
            continue
        options["connect_timeout"] = int(PATIENCE)
        if alias == "default":
            options["pool"]["timeout"] = PATIENCE
        limit = f"{PATIENCE:.0f}s"
        if "options" in options:
            options["options"] = re.sub(r"timeout=\w+", f"timeout={limit}", options["options"])
        settings = database["TRANSACTION_SETTINGS"]  # Behind a pooler.
        settings |= {name: limit for name in settings if name.endswith("timeout")}
