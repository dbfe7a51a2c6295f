"""`troupe serve`, also known as `tritonserver`: the server as a program.

Owns the process: its arguments, its log, its signals and its exit status. 0 is an orderly stop, 1
everything else, as in Triton.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence

import trio

from actors.failures import root_cause
from actors.lifecycle.model_repository import StartupFailed
from actors.ports.port import AddressInUse
from actors.settings.command_line import HelpAsked, parse, usage
from actors.settings.flag_values import BadOption
from actors.settings.options import ServerOptions
from protocol.status import ServerError
from troupe.heap import settle_heap
from troupe.logs import configure, reopen
from troupe.memory import keep_buffers
from troupe.server import ExitTimeout, Server
from troupe.systemd import READY, STOPPING, notify, reloading


def tritonserver_main() -> None:
    """The entry point that takes Triton's command line unchanged."""
    sys.exit(serve(sys.argv[1:]))


def serve(arguments: Sequence[str]) -> int:
    """Serve until a signal; the result is the exit status."""
    try:
        options = parse(
            arguments,
            warn=lambda text: print(text, file=sys.stderr),
            environment=os.environ,
        )
    except HelpAsked:
        print(usage(), file=sys.stderr)
        return 1
    except BadOption as error:
        print(f"{usage()}\n{error}", file=sys.stderr)
        return 1
    try:
        configure(options)
        keep_buffers()
        trio.run(_serve, options)
    except Exception as error:
        match root_cause(error):
            case StartupFailed() as cause:
                print(f"error: creating server: {cause}", file=sys.stderr)
            case ServerError(status=status, message=message):
                print(f"error: creating server: {status.value} - {message}", file=sys.stderr)
            case ExitTimeout() as cause:
                print(f"failed to stop server: {cause}", file=sys.stderr)
            case AddressInUse() as cause:
                print(cause, file=sys.stderr)
            case _:
                raise
        return 1
    return 0


async def _serve(options: ServerOptions) -> None:
    server = Server(options, announce=lambda text: print(text, flush=True))
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, signals, server)
            async with trio.open_nursery() as serving:
                await serving.start(server.run)
                settle_heap()
                notify(READY)
            nursery.cancel_scope.cancel()


async def _obey_signals(signals: AsyncIterator[int], server: Server) -> None:
    """A hang-up has files looked at again. Any other first signal stops the server in order.

    A second one changes nothing.
    """
    async for number in signals:
        print(f"Signal ({number}) received.", flush=True)
        if number == signal.SIGHUP:
            notify(reloading())
            reopen()
            server.reload()
            notify(READY)
        else:
            notify(STOPPING)
            server.stop()
