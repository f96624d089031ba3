"""The program of every process on the demo's stage: `python -m layer8.demo.worker ROLE ALIAS SETTINGS`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from layer8 import Vnic
from layer8.demo import answers, library, metrics
from layer8.demo.part import Part

ROLES: dict[str, Callable[[Part], None]] = {
    "metrics.publish": metrics.publish,
    "metrics.subscribe": metrics.subscribe,
    "library.send": library.send,
    "library.store": library.store,
    "answers.answer": answers.answer,
    "answers.call": answers.call,
}


def main() -> None:
    role, alias, settings = sys.argv[1:4]
    part = Part(json.loads(settings))  # listens to the stage from now on, also while it attaches
    with Vnic(alias, attach_timeout=10.0) as part.vnic:
        ROLES[role](part)
        part.wait_for("stop")


if __name__ == "__main__":
    main()
