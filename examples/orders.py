"""A small shop: one task that talks to an unreliable bank, one that loads orders in bulk."""

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bananas import Bananas, Outcome, RetryPolicy, current_job

app = Bananas()

connections: list[sqlite3.Connection] = []


@app.lifespan
async def process() -> AsyncIterator[None]:
    """Open the database once in each worker process."""
    connection = sqlite3.connect("orders.sqlite", timeout=30)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, cents INTEGER)")
    connection.execute("CREATE TABLE IF NOT EXISTS payments (job TEXT PRIMARY KEY, cents INTEGER)")
    connections.append(connection)
    yield
    connections.remove(connection)
    connection.close()


@dataclass
class Order:
    """One order, as it comes from the shop."""

    id: int
    cents: int


@app.batch_task(max_size=500, linger_s=0.02)
async def load_orders(orders: list[Order]) -> list[Outcome]:
    """Store orders, many in one transaction; those that cannot be true end as dead letters."""
    good = [order for order in orders if order.cents > 0]
    (connection,) = connections
    with connection:
        # A job may run twice; the order's own number makes the second run change nothing.
        connection.executemany(
            "INSERT OR IGNORE INTO orders VALUES (?, ?)", [(o.id, o.cents) for o in good]
        )
    return [
        Outcome.ok() if order.cents > 0 else Outcome.dead(f"cents: must be > 0, not {order.cents}")
        for order in orders
    ]


class BankIsDownError(Exception):
    """The bank did not answer: worth another try."""


@app.task(
    priority="high",
    max_retries=5,
    timeout_s=10,
    result=True,
    retry=RetryPolicy(base_s=0.05, retry_on=(BankIsDownError,)),
)
async def charge(order: int, cents: int) -> str:
    """Charge an order once, however often the job runs; returns the payment's number."""
    job = current_job()
    if job.attempt == 1:
        raise BankIsDownError("no answer on the first call")
    (connection,) = connections
    with connection:
        connection.execute("INSERT OR IGNORE INTO payments VALUES (?, ?)", (job.id, cents))
    return f"payment {order}/{job.attempt}"
