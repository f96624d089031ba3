"""The `layer8` command itself: global options, commands loaded by name, and the one place of exit statuses.

    0 done   1 failed, one line on stderr   2 wrong usage   3 nobody there   4 timed out   130 Ctrl-C

With --json what failed is a JSON object on stderr: `error` (its type), `message`, `status`, and the error's own fields.

A command is a module `layer8/cli/NAME.py` with a click command called `command`; its name stands in COMMANDS with the
line that `layer8 --help` shows, so that help and completion load nothing. A command raises the library's errors as
they are. One that has printed what it found and only has a status to give returns it (an int).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import io
import json
import logging
import os
import sys
from collections.abc import Sequence

import click

from layer8.cli.context import Settings, global_options
from layer8.errors import Layer8Error, Unreachable, VnetNotFound
from layer8.version import VERSION

DONE, FAILED, USAGE, NOBODY, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 130

COMMANDS = {
    "vnet": "Run a Vnet in the foreground.",
    "demo": "Start a Vnet and processes that do real work, and check it.",
    "ps": "List who is there.",
    "topics": "List what is subscribed to.",
    "ping": "Ask whether the Vnet, or somebody on it, is there.",
    "send": "Send a message.",
    "pub": "Publish on a topic.",
    "sub": "Print what is published on topics.",
    "request": "Send a request and print the reply.",
    "reply": "Answer requests.",
    "wait": "Wait until somebody is there.",
    "health": "Show health records, follow them, read reports.",
    "top": "Watch who does how much, live.",
    "events": "Show what happened lately.",
    "bench": "Measure round trips and rates on this host, or between two Vnets.",
    "doctor": "Look for what on this host would hurt, and say what to do.",
    "security": "Identities, their authority, and the policy.",
}

_log = logging.getLogger("layer8.cli")


class Commands(click.Group):
    """Loads a command when its name is used, and gives it the global options too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in COMMANDS if importlib.util.find_spec(f"layer8.cli.{name}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"layer8.cli.{cmd_name}").command
        taken = {name for parameter in command.params for name in parameter.opts}
        for option in global_options():
            if taken.isdisjoint(option.opts):
                command.params.append(option)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would make a failure of it
            _discard_output()
            ctx.exit(DONE)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])


def _version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"layer8 {VERSION}")
        context.exit()


layer8 = Commands(
    name="layer8",
    help="layer8: a network for processes.",
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        *global_options(),
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version."
        ),
    ],
)


def exit_status(error: BaseException) -> int:
    """The status that says what went wrong."""
    match error:
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
        case BrokenPipeError():
            return DONE  # whoever read our output wanted no more
        case click.exceptions.Exit():
            return error.exit_code
        case click.UsageError():
            return USAGE
        case VnetNotFound() | Unreachable():
            return NOBODY
        case TimeoutError():  # Backpressure and RequestTimeout are among them
            return TIMED_OUT
        case Layer8Error():
            return FAILED
        case ValueError() | TypeError():
            return USAGE
        case _:
            return FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status. `arguments`: without the program's name; default sys.argv."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    settings = Settings(json="--json" in given)  # also where the arguments cannot be read to their end
    _prepare_streams()
    try:
        result = layer8.main(given, "layer8", standalone_mode=False, obj=settings)
        status = result if isinstance(result, int) else DONE
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        status = exit_status(error)
        if isinstance(error, BrokenPipeError):
            _discard_output()
        elif not isinstance(error, click.exceptions.Exit) and status != INTERRUPTED:
            _log.debug("%s", error, exc_info=error)
            if settings.json:
                click.echo(json.dumps(_fields(error, status)), err=True)
            elif isinstance(error, click.ClickException):
                error.show()
            else:
                click.echo(f"layer8: {_text(error)}", err=True)
    return status


def _text(error: BaseException) -> str:
    """What is said of it. Names in it may be anybody's, so control characters are spelled out."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, Layer8Error | OSError | ValueError) and str(error):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


def _fields(error: BaseException, status: int) -> dict[str, object]:
    own = vars(error) if isinstance(error, Layer8Error) else {}
    fields: dict[str, object] = {"error": type(error).__name__, "message": _text(error), "status": status}
    for name, value in own.items():
        if isinstance(value, bytes):
            fields[name] = value.decode("utf-8", "backslashreplace")
        elif not name.startswith("_"):
            fields[name] = value if isinstance(value, int | float | tuple | None) else str(value)
    return fields


def _prepare_streams() -> None:
    """A closed stdout or stderr is nowhere, and what its encoding does not have is spelled out."""
    while True:
        lowest = os.open(os.devnull, os.O_RDWR)
        if lowest > 2:
            os.close(lowest)
            break
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Nobody reads: what is still buffered must not fail again when the interpreter ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
