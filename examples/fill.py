"""Submits orders, bad ones among them, charges one, and shows what became of them."""

import asyncio
import sqlite3

from orders import Order, app, charge, load_orders


async def main() -> None:
    """Run against the fleet that `bananas up orders:app` started."""
    async with app:
        report = await load_orders.enqueue_many(
            Order(id=number, cents=number % 1000) for number in range(5000)
        )
        print(f"{report.accepted} accepted, {report.rejected} rejected")

        payment = await charge.enqueue(order=17, cents=1700)
        print(await payment.result(timeout_s=30))

        while True:
            stats = await app.client.stats()
            if not stats["waiting"] + stats["leased"] + stats["scheduled"]:
                break
            await asyncio.sleep(0.1)
        for group in await app.client.dead_groups():
            print(f"{group.count} failed: {group.error}")

    with sqlite3.connect("orders.sqlite") as connection:
        (stored,) = connection.execute("SELECT count(*) FROM orders").fetchone()
    print(f"{stored} stored")


if __name__ == "__main__":
    asyncio.run(main())
