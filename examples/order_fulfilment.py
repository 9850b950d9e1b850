"""Fulfils an order: stock, approval, payment, time to think, and one shipment for each parcel.

    python examples/order_fulfilment.py            # to its end in a few seconds; it answers itself
    python examples/order_fulfilment.py --crash    # dies by SIGKILL when the bank has the money and nobody knows ...
    python examples/order_fulfilment.py            # ... and this asks the bank instead of charging again

The outside world (warehouse, bank, carrier) is a file, ``world.jsonl``, that tells what was done in it. A second task
plays the people: it approves what is too large, and scans parcels. In a real shop these would be other processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dagflow import DAGExecutor, JsonCodec, NodeContext, RetryPolicy, Workflow
from dagflow.errors import AlreadyDecidedError, DagflowError, RunFailedError, RunNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from dagflow import Run

# -- what is recorded -------------------------------------------------------------------------------


@attrs.frozen
class Line:
    """So many of one article, each at a price in cents."""

    article: str
    count: int
    price: int


@attrs.frozen
class Order:
    """What somebody wants to buy."""

    number: str
    customer: str
    lines: tuple[Line, ...]


@attrs.frozen
class Parcel:
    """What is sent together."""

    code: str
    articles: tuple[str, ...]


@attrs.frozen
class Approval:
    """The form of the review: whoever approves an order says up to which amount."""

    up_to: int


CODEC = JsonCodec([Line, Order, Parcel, Approval])
LARGE = 50_000
"""Cents above which a person has to approve an order."""

# -- the outside world ------------------------------------------------------------------------------


class World:
    """A file that tells what was done in the outside world; whoever does something says under which key."""

    def __init__(self, path: Path, *, crash: bool) -> None:
        self._path = path
        self._crash = crash

    def check(self) -> None:
        """Find out whether the file can be used, before anything is done.

        Raises:
            OSError: It cannot be read and written.
            ValueError: It holds something else.
        """
        self._path.open("a", encoding="utf-8").close()
        if not all(isinstance(deed, dict) and {"what", "key"} <= deed.keys() for deed in self._deeds()):
            raise ValueError("it holds something else")

    def did(self, what: str, key: str) -> bool:
        """Tell whether something was done under a key."""
        return any(deed["what"] == what and deed["key"] == key for deed in self._deeds())

    def do(self, what: str, key: str, **facts: Any) -> None:
        """Do something, and die if that was wanted, before anybody hears that it is done."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": what, "key": key, **facts}) + "\n")
        if self._crash and what == "charge":
            print("  kill -9: the bank has the money, and nothing is recorded yet", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def _deeds(self) -> list[dict[str, Any]]:
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        return []


@asynccontextmanager
async def opened(path: Path, *, crash: bool) -> AsyncIterator[World]:
    """Open the world when the first node asks for it; a real one would hold connections."""
    yield World(path, crash=crash)


# -- one parcel -------------------------------------------------------------------------------------

shipping = Workflow("shipping")


@shipping.node
def label(parcel: Parcel, world: World, context: NodeContext) -> str:
    """Print the label of a parcel."""
    world.do("label", context.idempotency_key, parcel=parcel.code)
    return f"label of {parcel.code}: {', '.join(parcel.articles)}"


shipping.wait_for_signal("picked_up", depends_on="label", timeout=86_400)
shipping.wait_for_signal("delivered", depends_on="picked_up", timeout=14 * 86_400)


@shipping.node
def receipt(parcel: Parcel, delivered: str) -> str:
    """Say who took the parcel."""
    return f"{parcel.code} was taken by {delivered}"


# -- the whole order --------------------------------------------------------------------------------

workflow = Workflow("order_fulfilment")


@workflow.node
def lines(order: Order) -> list[Line]:
    """Check the order; the lines are reserved one by one."""
    if not order.lines or any(line.count < 1 for line in order.lines):
        raise ValueError(f"order {order.number} asks for nothing")
    return list(order.lines)


@workflow.map(
    over={"line": "lines"},
    name="reserved",
    key=lambda line: line.article,
    limit=2,
    uses="warehouse",
    retry=RetryPolicy(max_attempts=4, delay=0.1, backoff=2.0),
)
def reserve(line: Line, world: World, context: NodeContext) -> str:
    """Reserve one line; the warehouse is busy when somebody asks for the first time."""
    if context.attempt == 1:
        raise ConnectionError("the warehouse is busy")
    if not world.did("reserve", context.idempotency_key):
        world.do("reserve", context.idempotency_key, article=line.article, count=line.count)
    return f"{line.count} x {line.article}"


@workflow.node
def total(lines: list[Line]) -> int:
    """Add up, in cents."""
    return sum(line.count * line.price for line in lines)


def is_large(total: int) -> bool:
    """Tell whether a person has to approve."""
    return total > LARGE


workflow.review(
    "approval",
    depends_on=["total", "reserved"],
    when=is_large,
    form=Approval,
    assignees=["ada", "grace"],
    deadline=2 * 86_400,
    on_deadline="reject",
)


def ask_the_bank(context: NodeContext) -> str:
    """Find out what became of a charge that a crash cut off."""
    if context.resources["world"].did("charge", context.idempotency_key):
        return f"charged as {context.idempotency_key[:8]}, says the bank"
    raise LookupError("the bank knows nothing of it: resume() charges")


@workflow.node(effects="at_most_once", reconcile=ask_the_bank, depends_on="reserved")
def payment(
    order: Order, total: int, world: World, context: NodeContext, approval: dict[str, Any] | None = None
) -> str:
    """Charge the customer, once; an order that is not large has no approval."""
    world.do("charge", context.idempotency_key, customer=order.customer, cents=total)
    by = f", approved by {approval['by']}" if approval else ""
    return f"charged as {context.idempotency_key[:8]}{by}"


workflow.sleep("time_to_think", 1.0, depends_on="payment")  # in a real shop: a day in which the customer may withdraw


@workflow.node(depends_on="time_to_think")
def parcels(order: Order) -> list[Parcel]:
    """Put two lines into each parcel."""
    pairs = [order.lines[start : start + 2] for start in range(0, len(order.lines), 2)]
    return [
        Parcel(f"{order.number}-{number}", tuple(f"{line.count} x {line.article}" for line in pair))
        for number, pair in enumerate(pairs, 1)
    ]


workflow.subworkflow(
    "shipments",
    shipping,
    over={"parcel": "parcels"},
    key=lambda parcel: parcel.code,
    output="receipt",
    on_error="collect",
)


@workflow.node
def letter(order: Order, payment: str, reserved: list[str], shipments: list[Any]) -> str:
    """Write to the customer."""
    parts = [f"Dear {order.customer}, your order {order.number} is complete: {', '.join(reserved)}; {payment}."]
    return "\n".join([*parts, *(f"  {shipment}" for shipment in shipments)])


@workflow.node(join="all_done", allow_failure=True)
def stock(world: World, context: NodeContext, reserved: list[str] | None = None, payment: str | None = None) -> str:
    """Free what was reserved when the payment has not come, whatever the reason."""
    if payment is not None:
        return "sold"
    world.do("free", context.idempotency_key, lines=reserved or [])
    return "free again"


# -- the people -------------------------------------------------------------------------------------


async def play_the_people(executor: DAGExecutor) -> None:
    """Approve what waits for Ada, and scan every parcel that waits for its scan."""
    while True:
        for review in await executor.reviews(assignee="ada"):
            # What she has decided is listed until the run goes on.
            with suppress(AlreadyDecidedError):
                await executor.decide(
                    review.run_id, review.review, approved=True, by="ada", data=Approval(100_000), comment="fine"
                )
                print(f"  ada approves {review.run_id}")
        for shipment in await executor.runs(workflow=shipping, status="waiting"):
            await scan(executor, shipment.run_id)
        await asyncio.sleep(0.2)


async def scan(executor: DAGExecutor, run_id: str) -> None:
    """Send a shipment the signal that it waits for; a second one of the same name would be kept and change nothing."""
    for name, value in (("picked_up", "the carrier"), ("delivered", "a neighbour")):
        if (await executor.explain(run_id, name)).waits_for == "signal":
            print(f"  the scanner says of {run_id}: {name}")
            await executor.signal(run_id, name, value)


# -- running it -------------------------------------------------------------------------------------

ORDER = Order(
    "1001",
    "Ada Lovelace",
    (Line("lamp", 2, 12_000), Line("desk", 1, 30_000), Line("pencil", 12, 90), Line("paper", 5, 400)),
)
TELLING = ("reserved", "approval", "payment", "time_to_think", "shipments")


async def fulfil(order: Order, *, run_id: str, store: Path, world: Path, crash: bool) -> Run:
    """Run the order to its end, or go on with it; when it waits, say why and look again a little later."""
    resources = {"world": partial(opened, world, crash=crash)}
    limits = {"warehouse": 2}
    async with DAGExecutor(f"sqlite:///{store}", codec=CODEC, resources=resources, limits=limits) as executor:
        await tell_where_it_is(executor, run_id)
        people = asyncio.create_task(play_the_people(executor))
        try:
            while (run := await executor.run(workflow, {"order": order}, run_id=run_id)).status == "waiting":
                await explain(executor, run_id)
                await asyncio.wait([people], timeout=0.3)
                if people.done():
                    people.result()  # raises what went wrong with them
            return run
        finally:
            people.cancel()
            await asyncio.wait([people])


async def tell_where_it_is(executor: DAGExecutor, run_id: str) -> None:
    """Say what an earlier process has recorded."""
    try:
        run = await executor.get(run_id)
    except RunNotFoundError:
        print(f"run {run_id}: new")
        return
    done = [name for name, node in run.nodes.items() if node.status == "completed"]
    print(f"run {run_id}: {len(done)} nodes are recorded as completed")


async def explain(executor: DAGExecutor, run_id: str) -> None:
    """Say why the run does not go on."""
    for name in TELLING:
        explanation = await executor.explain(run_id, name)
        if explanation.waits_for is not None:
            print(f"  {explanation.sentence}")


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Fulfil an order.")
    parser.add_argument("--run-id", default="order-1001", help="the run to start or to go on with")
    parser.add_argument("--store", type=Path, default=Path("orders.db"), help="SQLite file (default: %(default)s)")
    parser.add_argument("--world", type=Path, default=Path("world.jsonl"), help="what was done (default: %(default)s)")
    parser.add_argument("--crash", action="store_true", help="die by SIGKILL when the bank has the money")
    options = parser.parse_args(words)
    try:
        World(options.world, crash=False).check()
    except OSError as error:
        parser.error(f"what is done cannot be written to {options.world}: {error.strerror}")
    except ValueError:
        parser.error(f"{options.world} is no file that tells what was done: name another one in --world")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Fulfil the order and print the letter to the customer."""
    options = arguments(words)
    try:
        run = asyncio.run(
            fulfil(ORDER, run_id=options.run_id, store=options.store, world=options.world, crash=options.crash)
        )
    except RunFailedError as error:
        print(f"{error}\nstock: {error.run.outputs.get('stock')}", file=sys.stderr)
        return 1
    except DagflowError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        return 130
    print(run.outputs["letter"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
