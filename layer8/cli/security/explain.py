"""`layer8 security explain`: which rule decides."""

from __future__ import annotations

from pathlib import Path

import click

from layer8.cli.context import Settings, pass_settings
from layer8.cli.output import print_json
from layer8.protocol.control import Explain
from layer8.security import policy as policies
from layer8.security.provider import Action
from layer8.vnic.control import ControlClient


@click.command("explain")
@click.argument("principal")
@click.argument("action", type=click.Choice([action.value for action in Action]))
@click.argument("resource")
@click.option(
    "--policy",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Ask this file, not the Vnet.",
)
@pass_settings
def command(settings: Settings, principal: str, action: str, resource: str, file: Path | None) -> int:
    """Say whether PRINCIPAL may do ACTION on RESOURCE, and by which rule. Status 1: it may not.

    RESOURCE is written as in a policy: a name, or a kind and a name ("topic prices.gold"). Without --policy the Vnet is
    asked, and you need the right to administer it.
    """
    if file is not None:
        what = policies.parse_resource(resource, Action(action))
        text = str(policies.read(file).explain(principal, Action(action), what))
    else:
        with ControlClient(settings.vnet, timeout=settings.seconds()) as client:
            question = Explain(id=0, principal=principal, action=action, resource=resource)
            text = client.request(question).text
    allowed = not text.startswith("denied")
    if settings.json:
        print_json(
            {"principal": principal, "action": action, "resource": resource, "allowed": allowed, "because": text}
        )
    else:
        click.echo(text)
    return 0 if allowed else 1
