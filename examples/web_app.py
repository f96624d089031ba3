"""A web application on layer8: `uvicorn web_app:app`, while a Vnet runs. It needs starlette and uvicorn.

    GET  /square/12          asks whoever has the alias example.squares, which is this application itself
    POST /prices/gold        publishes the body on example.prices.gold
    GET  /prices/gold        the latest price that was published, by anybody

At SIGTERM uvicorn ends the lifespan: the Vnic takes nothing new, answers what it has, and leaves.
"""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from layer8 import AsyncRequest, AsyncVnic, Layer8Error, Message, RequestFailed

latest: dict[str, bytes] = {}


async def answer(request: AsyncRequest) -> bytes | None:
    if not request.payload.isdigit():
        await request.fail("not a number")
        return None
    return str(int(request.payload) ** 2).encode()


def note(message: Message) -> None:
    latest[str(message.topic)] = message.payload


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with AsyncVnic("example.squares") as vnic:
        app.state.vnic = vnic
        await vnic.serve(answer, workers=16)
        await vnic.subscribe("example.prices.gold", note)
        yield
        await vnic.drain()


async def square(request: Request) -> Response:
    vnic: AsyncVnic = request.app.state.vnic
    try:
        reply = await vnic.request("example.squares", request.path_params["number"].encode(), timeout=5.0)
    except RequestFailed as error:
        return PlainTextResponse(error.reason, status_code=422)
    except Layer8Error as error:
        return PlainTextResponse(str(error), status_code=503)
    return PlainTextResponse(reply.payload)


async def set_price(request: Request) -> Response:
    vnic: AsyncVnic = request.app.state.vnic
    sequence = await vnic.publish(f"example.prices.{request.path_params['metal']}", await request.body())
    return PlainTextResponse(str(sequence), status_code=202)


async def get_price(request: Request) -> Response:
    price = latest.get(f"example.prices.{request.path_params['metal']}")
    return PlainTextResponse("no price yet", status_code=404) if price is None else PlainTextResponse(price)


app = Starlette(
    routes=[
        Route("/square/{number}", square),
        Route("/prices/{metal}", set_price, methods=["POST"]),
        Route("/prices/{metal}", get_price),
    ],
    lifespan=lifespan,
)
