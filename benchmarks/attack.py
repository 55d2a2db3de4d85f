"""What valid traffic keeps while somebody fires bad keys as fast as they are refused."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks import servers
from benchmarks.load import fire
from benchmarks.plan import CONNECTIONS, Plan
from benchmarks.servers import Door, Keyportal
from benchmarks.table import medians, row

HALF = CONNECTIONS // 2
_MAKE_KEY = """
import django
django.setup()
from keyportal.keys import secret
print(secret.generate().text)
"""


def bad_keys(plan: Plan) -> None:
    """As many connections attack as are valid, so the fair share is half of the core."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        door = keyportal.door(upstream)
        for kind, key in _bad_keys(keyportal, door):
            attacker = door._replace(keys=(key,))
            alone, good, refused = medians(_turn(door, attacker, plan) for _ in range(plan.rounds))
            row(
                f"valid requests/s while {kind} are fired, against the same connections alone",
                f"{good:.0f} / {alone:.0f} = {good / alone:.2f}, beside {refused:.0f} refused",
            )


def _bad_keys(keyportal: Keyportal, door: Door) -> list[tuple[str, str]]:
    key = door.keys[0]
    last = "1" if key[-1] == "0" else "0"
    return [
        ("keys that fail the checksum", key[:-1] + last),
        ("keys that don't exist", keyportal.run("-c", _MAKE_KEY)),
    ]


def _turn(door: Door, attacker: Door, plan: Plan) -> tuple[float, float, float]:
    alone = fire(door, connections=HALF, seconds=plan.seconds).served
    with ThreadPoolExecutor(1) as pool:
        # It begins before and ends after.
        attack = pool.submit(fire, attacker, connections=HALF, seconds=plan.seconds + 1)
        good = fire(door, connections=HALF, seconds=plan.seconds).served
        refused = attack.result()
    if refused.refused != refused.requests:
        raise RuntimeError("A bad key was served.")
    return alone.per_second, good.per_second, refused.per_second
