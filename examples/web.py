"""A web application that submits jobs and answers with their results, by Starlette."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orders import app, charge
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from bananas import ResultTimeoutError


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Connect to Redis for as long as the application runs."""
    async with app:
        yield


async def pay(request: Request) -> JSONResponse:
    """Charge an order; 202 when the bank takes longer than we like to wait."""
    job = await charge.enqueue(order=request.path_params["order"], cents=100)
    try:
        return JSONResponse({"job": job.id, "payment": await job.result(timeout_s=5)})
    except ResultTimeoutError:
        return JSONResponse({"job": job.id}, 202)


web = Starlette(routes=[Route("/pay/{order:int}", pay, methods=["POST"])], lifespan=lifespan)
