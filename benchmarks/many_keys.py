"""Throughput with a million keys in the database, against a few."""

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.processes import Server
from benchmarks.servers import Keyportal, LoadTarget, keyportal
from benchmarks.table import row
from benchmarks.throughput import take_turns

FEW = 10
SOME = 1_000
MANY = 1_000_000


def million_keys(plan: Plan) -> None:
    """With few keys in use, and with more; they are chosen at random among all keys.

    More keys in use cost more also without other keys in the database, because the last use of each
    is written.
    """
    with (
        servers.instant_upstream() as upstream,
        keyportal() as small,
        keyportal() as medium,
        keyportal() as large,
    ):
        few = _fill_database(small, upstream, FEW, FEW)
        some = _fill_database(medium, upstream, SOME, SOME)
        some_of_many = _fill_database(large, upstream, MANY, SOME)
        few_of_many = some_of_many._replace(keys=some_of_many.keys[:FEW])
        ten, ten_of_million, thousand, thousand_of_million = take_turns(
            plan, few, few_of_many, some, some_of_many
        )
    many = f"requests/s with {MANY:,} keys against"
    row(f"{many} {FEW}, {FEW} in use", ten_of_million.against(ten))
    row(f"{many} {SOME:,}, {SOME:,} in use", thousand_of_million.against(thousand))
    row(f"{many} {FEW}, {SOME:,} in use against {FEW}", thousand_of_million.against(ten))


def _fill_database(keyportal: Keyportal, upstream: Server, keys: int, in_use: int) -> LoadTarget:
    target = keyportal.load_target(upstream)
    texts = keyportal.run("-m", "benchmarks.populate", str(keys), str(in_use))
    return target._replace(keys=tuple(texts.split()))
