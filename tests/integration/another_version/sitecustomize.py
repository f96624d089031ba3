"""Makes layer8 another version of itself, in every Python that has this directory in its search path.

LAYER8_ANOTHER is JSON: `release`; `protocol`, `status`, `link` where these numbers are others; `core`: the path of a C
module. With `more` every message, record and entry has a field more than here, and both sides say News.
"""

import ast
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import CodeType

ANOTHER = json.loads(os.environ["LAYER8_ANOTHER"])

NUMBERS = {
    ("layer8.version", "VERSION"): "release",
    ("layer8.protocol.control", "PROTOCOL_VERSION"): "protocol",
    ("layer8.protocol.link_messages", "LINK_VERSION"): "link",
    ("layer8.vnet.status", "STATUS_VERSION"): "status",
}
WITH_MORE = {
    "layer8.health_record",
    "layer8.protocol.control",
    "layer8.protocol.link_messages",
    "layer8.protocol.mirror",
    "layer8.vnet.acquaintances",
    "layer8.vnet.roster",
    "layer8.vnet.status",
    "layer8.vnet.terms",
}
FIELD = 'unheard_of: str = msgspec.field(default_factory=lambda: "unheard of")'  # which is always written
BEHIND = {
    "layer8.protocol.control": """
class News(Wire, frozen=True, tag="news"):
    id: int = 0
""",
    "layer8.vnet.server": """
from layer8.protocol.control import News
def _admitted(self, newcomer, admitted=Vnet.admitted):
    newcomer.stream.send(News())
    admitted(self, newcomer)
Vnet.admitted = _admitted
""",
    "layer8.vnic.core": """
from layer8.protocol.control import News
def _install(self, attachment, install=Core._install):
    installed = install(self, attachment)
    self.questions.say(attachment, News())
    return installed
Core._install = _install
""",
}
BASES = {"Struct", "Wire", "MirrorMessage"}


class Loader(importlib.machinery.SourceFileLoader):
    """Reads the source as it is and changes what it means. Never from a cache, and into none."""

    def get_code(self, fullname: str) -> CodeType:
        tree = ast.parse(self.get_data(self.path), self.path)
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                number = ANOTHER.get(NUMBERS.get((fullname, node.targets[0].id), ""))
                if number is not None:
                    node.value = ast.Constant(number)
            elif isinstance(node, ast.ClassDef) and ANOTHER["more"] and fullname in WITH_MORE:
                bases = {getattr(base, "attr", getattr(base, "id", "")) for base in node.bases}
                if bases & BASES and node.name not in BASES:
                    node.body += ast.parse(FIELD).body
        if ANOTHER["more"] and fullname in BEHIND:
            tree.body += ast.parse(BEHIND[fullname]).body
        return compile(ast.fix_missing_locations(tree), self.path, "exec")


class Another:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name == "layer8.dataplane._core":
            return importlib.util.spec_from_file_location(name, ANOTHER["core"]) if ANOTHER.get("core") else None
        if name in WITH_MORE or name in BEHIND or any(name == module for module, _ in NUMBERS):
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            assert spec is not None
            assert spec.origin is not None
            return importlib.util.spec_from_file_location(name, spec.origin, loader=Loader(name, spec.origin))
        return None


sys.meta_path.insert(0, Another)
