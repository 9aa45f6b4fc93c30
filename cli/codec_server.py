"""`codec-server`: opens sealed payloads for the Web UI of this machine, and for nobody else."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import Annotated

import typer
import uvicorn
from google.protobuf.json_format import MessageToDict, Parse, ParseError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from temporalio.api.common.v1 import Payloads

from cli.context import failed, target_of
from domain.errors import BadInput, HoldfastError
from observability.payload_codec import HoldfastCodec, KeyRing, PayloadRefused
from payload_keys import payload_keys

app = typer.Typer()
HOST = "127.0.0.1"
PORT = 8234
BODY_MAX = 16 * 1024 * 1024
HEADERS = ("content-type", "x-namespace", "authorization", "authorization-extras")


def codec_app(ring: KeyRing, namespace: str, token: str, origins: list[str]) -> Starlette:
    """The remote codec protocol: POST /TOKEN/decode for pages of these origins.

    There is no encoding: the protocol does not say for which workflow a payload is, and ours are
    bound to one. Nothing is logged.
    """
    codec = HoldfastCodec(ring, accept_plain=True, opens_for=namespace)

    async def decode(request: Request) -> Response:
        if request.headers.get("x-namespace", namespace) != namespace:
            return _refused("NAMESPACE", f"this server opens payloads of {namespace}")
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > BODY_MAX:
                return _refused("BODY", f"the body was longer than {BODY_MAX} bytes", 413)
        try:
            given = Parse(bytes(body), Payloads())
            opened = Payloads(payloads=await codec.decode(given.payloads))
        except (ParseError, UnicodeDecodeError):
            return _refused("BODY", "the body was no JSON of payloads")
        except PayloadRefused as error:
            return _refused(error.code, error.text)
        return JSONResponse(MessageToDict(opened))

    async def encode(request: Request) -> Response:
        return _refused(
            "PAYLOAD_CONTEXT",
            "payloads are sealed for one workflow and the Web UI does not say for which; use "
            "starter.py. The signals kill and flatten work without input",
        )

    return Starlette(
        routes=[
            Route(f"/{token}/decode", decode, methods=["POST"]),
            Route(f"/{token}/encode", encode, methods=["POST"]),
        ],
        middleware=[
            # A page elsewhere that makes its own host name point here is not heard.
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
            Middleware(
                CORSMiddleware,
                allow_origins=origins,
                allow_methods=["POST"],
                allow_headers=list(HEADERS),
                allow_credentials=True,
            ),
        ],
    )


def _refused(code: str, text: str, status: int = 400) -> Response:
    return JSONResponse({"code": code, "message": f"{code} {text}"}, status_code=status)


@app.command("codec-server")
def codec_server(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="on 127.0.0.1")] = PORT,
    origin: Annotated[
        list[str] | None, typer.Option(help="of the Web UI; default: the running stack's")
    ] = None,
) -> None:
    """Opens sealed payloads for the Web UI on this machine; ends with Ctrl-C."""
    target = target_of(context)
    try:
        settings = target.settings()
        ring = payload_keys(settings)
        if not ring.keys:
            raise BadInput("CONFIG_MISSING", "encryption.secrets", "off", "encryption that is on")
        info = target.run_info
        origins = origin or ([] if info is None else _names_of(info.web_ui_url))
        if not origins:
            raise BadInput("ORIGIN_MISSING", "origin", "", "http://127.0.0.1:PORT of the Web UI")
        listening = _listen(port)
    except HoldfastError as error:
        raise failed(error) from None
    token = secrets.token_urlsafe(18)
    served = codec_app(ring, settings.temporal.namespace, token, origins)
    typer.echo(f"codec end point for the Web UI: http://{HOST}:{port}/{token}")
    config = uvicorn.Config(served, log_level="error", access_log=False, lifespan="off")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))


def _names_of(url: str) -> list[str]:
    """Both names of this machine: the browser's page may have either."""
    plain = url.rstrip("/")
    return [plain.replace("localhost", HOST), plain.replace(HOST, "localhost")] if plain else []


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
    except OSError as error:
        listening.close()
        raise BadInput("PORT_TAKEN", "port", port, f"a free one ({error.strerror})") from None
    return listening
