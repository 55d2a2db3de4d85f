"""Mistakes of whoever runs it: each is told in one sentence."""

import base64
import os
from concurrent.futures import ThreadPoolExecutor

from tests.faults.world import MODEL, Result, World


def settings_are_wrong(world: World) -> Result:
    """Starts with a mistake each."""
    corrupt = world.folder / "corrupt.sqlite3"
    corrupt.write_bytes(b"This was a database. " * 500)
    mistakes = [
        {"DATABASE_URL": f"sqlite:///{corrupt}"},
        {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"},
        {"SECRET_KEY": "a"},
        {"DEBUG": "maybe"},
        {"DEFAULT_FROM_EMAIL": "keys@"},
        {"KEYPORTAL_DB_POOLER": "session"},
    ]
    with ThreadPoolExecutor(2) as threads:
        texts = list(threads.map(lambda mistake: world.refused_start(**mistake), mistakes))
    sentences = [text for text in texts if text.startswith("keyportal: ") and "\n" not in text]
    return Result(
        f"{len(sentences)} of {len(texts)} starts end with one sentence",
        len(sentences) == len(texts),
    )


def credential_keys_are_lost(world: World) -> Result:
    """A node has other keys than those that encrypted the model servers' credentials."""
    keys = base64.urlsafe_b64encode(os.urandom(32)).decode()
    node = world.node(KEYPORTAL_CREDENTIAL_KEYS=keys)
    reply = node.chat(world.keys["free"], MODEL)
    doctor = node.run_manage("doctor")
    told = [line for line in doctor.stdout.splitlines() if "can't be decrypted" in line]
    node.kill()
    return Result(
        f"calls get {reply.status} {reply.code}; doctor names {len(told)} of 1 model server",
        (reply.status, reply.code) == (502, "credential_unreadable")
        and any("fake" in line for line in told),
    )
