"""What the writes of `SQLiteStore` work with: the connection, and how the runs stand that they write to.

Whether a write may be done is asked of the database once, and remembered as long as nobody else has written to it: of
that SQLite keeps account for each connection. The answer is true until the transaction ends, because it has begun as
one that writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dagflow.stores import _sqlite_sql as sql

if TYPE_CHECKING:
    import sqlite3
    from datetime import datetime

    from dagflow.protocols import Clock

__all__ = ["Desk", "Held"]


@attrs.define(eq=False)
class Held:
    """How a run stands in the database that an owner of this store writes to.

    Attributes:
        number: Its number.
        owner: Who holds it.
        epoch: The epoch of that claim.
        version: Number of its last event.
        received: As its row has it.
        goes_on: Its row says that it is running, and woken by no timer.
    """

    number: int
    owner: str
    epoch: int
    version: int
    received: int
    goes_on: bool


@attrs.define(eq=False)
class Desk:
    """What a write works with.

    Attributes:
        connection: In a transaction that was begun for writing.
        held: Runs that this store's owners write to, by their ids; nothing is wrong when one is missing.
        now: When the transaction began, by the clock that counts the leases, aware UTC.
    """

    connection: sqlite3.Connection
    _clock: Clock
    held: dict[str, Held] = attrs.field(factory=dict, init=False)
    now: datetime = attrs.field(init=False)
    _data_version: int = attrs.field(init=False, default=0)
    _last_number: int | None = attrs.field(init=False, default=None)

    def begin(self) -> None:
        """Begin a transaction: forget what is known of runs if anybody else has written."""
        self.connection.execute("BEGIN IMMEDIATE")
        self.now = self._clock.now()
        self._last_number = None
        [version] = self.connection.execute(sql.DATA_VERSION).fetchone()
        if version != self._data_version:
            self.held.clear()
            self._data_version = version

    def new_number(self) -> int:
        """Return a number that no run has had."""
        if self._last_number is None:
            [self._last_number] = self.connection.execute(sql.SELECT_LAST_NUMBER).fetchone()
        self._last_number = number = (self._last_number or 0) + 1
        return number

    def knows(self, run_id: str) -> bool:
        """Return whether there is such a run, and remember how it stands."""
        held = self.look_up(run_id)
        if held is not None:
            self.held[run_id] = held
        return held is not None

    def look_up(self, run_id: str) -> Held | None:
        """Read how a run stands; whoever writes to it remembers that."""
        self.held.pop(run_id, None)
        row = self.connection.execute(sql.SELECT_HELD, (run_id,)).fetchone()
        return None if row is None else Held(*row)
