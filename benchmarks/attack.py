"""Throughput of valid requests while an attacker sends wrong keys as fast as possible."""

from concurrent.futures import ThreadPoolExecutor

from benchmarks import servers
from benchmarks.load import fire
from benchmarks.plan import CONNECTIONS, Plan
from benchmarks.servers import Keyportal, LoadTarget
from benchmarks.table import medians, row

HALF = CONNECTIONS // 2
_GENERATE_KEY = """
import django
django.setup()
from keyportal.keys import keystring
print(keystring.generate().text)
"""


def bad_keys(plan: Plan) -> None:
    """Half of the connections attack, so the fair share of valid requests is half of the core."""
    with servers.instant_upstream() as upstream, servers.keyportal() as keyportal:
        target = keyportal.load_target(upstream)
        for kind, key in _wrong_keys(keyportal, target):
            attacker = target._replace(keys=(key,))
            alone, good, refused = medians(
                _measure_turn(target, attacker, plan) for _ in range(plan.rounds)
            )
            row(
                f"valid requests/s while {kind} are sent, against the same connections alone",
                f"{good:.0f} / {alone:.0f} = {good / alone:.2f}, next to {refused:.0f} refused",
            )


def _wrong_keys(keyportal: Keyportal, target: LoadTarget) -> list[tuple[str, str]]:
    key = target.keys[0]
    last = "1" if key[-1] == "0" else "0"
    return [
        ("keys that fail the checksum", key[:-1] + last),
        ("keys that don't exist", keyportal.run("-c", _GENERATE_KEY)),
    ]


def _measure_turn(
    target: LoadTarget, attacker: LoadTarget, plan: Plan
) -> tuple[float, float, float]:
    alone = fire(target, connections=HALF, seconds=plan.seconds).served
    with ThreadPoolExecutor(1) as pool:
        # The attack lasts longer than the measurement.
        attack = pool.submit(fire, attacker, connections=HALF, seconds=plan.seconds + 1)
        good = fire(target, connections=HALF, seconds=plan.seconds).served
        refused = attack.result()
    if refused.refused != refused.requests:
        raise RuntimeError("A bad key was served.")
    return alone.per_second, good.per_second, refused.per_second
