"""A million keys in the database against few."""

from benchmarks import servers
from benchmarks.plan import Plan
from benchmarks.processes import Server
from benchmarks.servers import Door, Keyportal, keyportal
from benchmarks.table import row
from benchmarks.throughput import in_turns

FEW = 10
SOME = 1_000
MANY = 1_000_000


def million_keys(plan: Plan) -> None:
    """Once with few keys in use and once with more, chosen at random among all there are.

    More keys in use cost more, also where no others are there: each has a last use to be noted.
    """
    with (
        servers.instant_upstream() as upstream,
        keyportal() as small,
        keyportal() as medium,
        keyportal() as large,
    ):
        few = _fill(small, upstream, FEW, FEW)
        some = _fill(medium, upstream, SOME, SOME)
        some_of_many = _fill(large, upstream, MANY, SOME)
        few_of_many = some_of_many._replace(keys=some_of_many.keys[:FEW])
        ten, ten_of_million, thousand, thousand_of_million = in_turns(
            plan, few, few_of_many, some, some_of_many
        )
    many = f"requests/s with {MANY:,} keys against"
    row(f"{many} {FEW}, {FEW} in use", ten_of_million.against(ten))
    row(f"{many} {SOME:,}, {SOME:,} in use", thousand_of_million.against(thousand))
    row(f"{many} {FEW}, {SOME:,} in use against {FEW}", thousand_of_million.against(ten))


def _fill(keyportal: Keyportal, upstream: Server, keys: int, in_use: int) -> Door:
    door = keyportal.door(upstream)
    texts = keyportal.run("-m", "benchmarks.populate", str(keys), str(in_use))
    return door._replace(keys=tuple(texts.split()))
