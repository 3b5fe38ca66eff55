"""`dgguf serve`: one model for several clients, over HTTP."""

import logging
import sys
from pathlib import Path

import click

from dgguf.cli.commands import model_argument
from dgguf.cli.options import Loading, loading_options


@click.command(short_help="Serve a model to OpenAI's and Ollama's clients.")
@model_argument
@click.option("--host", default="127.0.0.1", help="Address to listen at; all but this machine need a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, help="Port; 0 for any that is free.")
@click.option("--api-key", help="A key that every request must bring.", show_default=False)
@click.option(
    "--allow-origin",
    "origins",
    multiple=True,
    metavar="URL",
    help="A site whose pages may ask, as https://example.org. May be repeated.",
)
@click.option(
    "--queue", type=click.IntRange(0), default=16, help="Answers that may wait; more are told to come back."
)
@loading_options
def serve(
    loading: Loading, host: str, port: int, api_key: str | None, origins: tuple[str, ...], queue: int
) -> None:
    """Serve MODEL as OpenAI and Ollama do, and a page to watch it, until Ctrl-C. docs/server.md says more.

    It listens on this machine alone; other machines reach it by --host 0.0.0.0 --api-key KEY.

    \b
    Examples:
      dgguf serve demo
      dgguf serve model.gguf --port 8000 --queue 4
      curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' -d \\
        '{"messages": [{"role": "user", "content": "Tell me a story."}], "stream": true}'
    """
    try:
        from dgguf.server.app import Server
        from dgguf.server.guard import check_origin, is_loopback
        from dgguf.server.run import listen, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "h11", "anyio"):
            raise
        from dgguf.errors import BackendError, extra

        raise BackendError(f"the server needs more packages: {extra('server')}") from None
    if api_key is None and not is_loopback(host):
        raise click.UsageError(f"--host {host} is reached by other machines: give an --api-key, too")
    if api_key is not None and not api_key.strip():
        raise click.UsageError("the --api-key is empty")
    if api_key is not None and not api_key.isascii():
        raise click.UsageError("the --api-key must be ASCII: clients write other letters in different ways")
    for origin in origins:
        if not check_origin(origin):
            raise click.UsageError(f"--allow-origin {origin}: a site is written as https://example.org")
    from dgguf.cli.log import show_log
    from dgguf.cli.models import offer
    from dgguf.cli.output import say

    offer(loading.model)
    sock = listen(host, port)  # before the model is loaded, which may take a while
    with sock:
        say(f"loading {loading.model}")
        with loading.open() as session, show_log(logging.INFO):
            if session.backend.is_async and session.sees:
                session.images.open()  # a GPU has one queue, which is the worker's as soon as it serves
            name = Path(session.name).stem if session.name.endswith(".gguf") else session.name
            server = Server(session, queue=queue, name=name)
            address = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"

            def ready() -> None:
                say(f"serving {name} at {address}/v1, a page at {address}/; Ctrl-C ends it")
                sys.stderr.flush()

            serve(server.application(key=api_key, origins=frozenset(origins)), sock, ready)
