"""The store in memory and the store in PostgreSQL answer every sequence of calls alike."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import attrs
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagflow._events import Event, Message, RunRecord
from dagflow.stores import MemoryStore
from dagflow.stores.postgres import PostgresStore
from dagflow.testing import FakeClock
from stores.test_stores_agree import STEPS, answer, everything

if TYPE_CHECKING:
    from stores.test_stores_agree import Step

# No lease of those that are drawn comes near its end by itself, so that it does not matter how long the steps take.
PASSING = st.sampled_from([0.0, 0.0, 30.0])


def without_times(value: Any) -> Any:
    """Return an answer without what the clock of the database says."""
    if isinstance(value, RunRecord | Message | Event):
        return type(value), without_times(attrs.asdict(value, recurse=False))
    if isinstance(value, dict):
        clocks = {"lease_until", "sent_at"}
        return {key: one is None if key in clocks else without_times(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_times(one) for one in value]
    return value


async def pass_time(connection: psycopg.AsyncConnection[Any], clock: FakeClock, seconds: float) -> None:
    """Let time pass, which the database cannot be told: its leases end earlier instead."""
    clock.advance(seconds)
    query = (
        "UPDATE dagflow.runs SET lease_until = lease_until - make_interval(secs => %s) WHERE lease_until IS NOT NULL"
    )
    await connection.execute(query, [seconds])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(script=st.lists(st.tuples(PASSING, STEPS), min_size=1, max_size=40))
def test_the_stores_agree_on_everything_but_the_time(postgres_dsn: str, script: list[tuple[float, Step]]) -> None:
    async def play() -> None:
        clock = FakeClock(datetime.now(UTC))
        memory = MemoryStore(clock=clock)
        async with (
            await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection,
            PostgresStore(postgres_dsn) as postgres,
        ):
            await connection.execute("TRUNCATE dagflow.runs, dagflow.events, dagflow.messages")
            for seconds, step in script:
                await pass_time(connection, clock, seconds)
                assert without_times(await answer(postgres, step)) == without_times(await answer(memory, step))
            assert without_times(await everything(postgres)) == without_times(await everything(memory))

    asyncio.run(play())
