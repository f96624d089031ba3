"""`layer8 security`: identities, their authority, and the policy. One module a command, as for `layer8` itself."""

from __future__ import annotations

import importlib
import importlib.util

import click

from layer8.cli.context import global_options

COMMANDS = {
    "init": "Make the authority of a new overlay.",
    "issue": "Give an identity its certificate.",
    "token": "Let somebody join, once and soon.",
    "join": "Become somebody, with a token or a signing request.",
    "serve": "Let others join and renew over the network.",
    "revoke": "Take certificates back.",
    "rotate": "Give the authority a new key.",
    "show": "Show an identity, or an authority.",
    "reload": "Let the Vnet look at policy and identity at once.",
    "explain": "Say which rule of the policy decides.",
    "audit": "Read and check an audit log.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        if isinstance(command, click.Group):
            return command  # its commands take the global options
        taken = {name for parameter in command.params for name in parameter.opts}
        command.params += [option for option in global_options() if taken.isdisjoint(option.opts)]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


command = _Commands(name="security", help="Identities, their authority, and the policy (see SECURITY.md).")
