r"""Who may do what: rules from a TOML file, indexed so that a decision costs microseconds however many there are.

    [[allow]]
    name = "feeds publish prices"            # for people: `explain` and the audit log say it
    who  = "layer8://shop/vnic/feed-*"
    may  = "publish"                         # an action, or "*"
    what = ["prices.*", "rates"]

    [[deny]]
    who  = "*"
    may  = ["send", "request"]
    what = 'alias \*'                        # the alias that is called *

`who`, `may` and `what` are each one string or a list of them. A deny that fits wins over every allow; what no rule
fits is denied. Rules are looked at in the order of the file, so of several that fit the first one is named.

A name is literal, or a prefix when it ends in `*`; `\*` is a star, `\\` a backslash, and a star elsewhere is an error.
There are no other patterns: `>` and `.` are signs like any other. Names are compared sign by sign, as they are given.

`who` is a whole principal, as layer8://shop/vnic/web. `what` is a kind and a name: "topic prices.*", "alias store",
"vnic layer8://shop/vnic/web" (one Vnic, by uuid), "principal …" (for host), "overlay shop". Without a kind the name is
of the kind that the action is for: a topic for publish and subscribe, an alias for send, request and serve, a
principal for host, the overlay for the others. "*" alone is everything.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli

from layer8.errors import Layer8Error
from layer8.security.provider import Action, Decision, Resource, ResourceKind

LARGEST_FILE = 16 << 20
"""Bytes; 10,000 rules take about one MiB."""

_KINDS: Mapping[Action, tuple[ResourceKind, ...]] = {  # the first one is meant by a name without a kind
    Action.ATTACH: (ResourceKind.OVERLAY,),
    Action.HOST: (ResourceKind.PRINCIPAL,),
    Action.SEND: (ResourceKind.ALIAS, ResourceKind.VNIC),
    Action.REQUEST: (ResourceKind.ALIAS, ResourceKind.VNIC),
    Action.PUBLISH: (ResourceKind.TOPIC,),
    Action.SUBSCRIBE: (ResourceKind.TOPIC,),
    Action.SERVE: (ResourceKind.ALIAS,),
    Action.READ_HEALTH: (ResourceKind.OVERLAY,),
    Action.ADMINISTER: (ResourceKind.OVERLAY,),
}


class PolicyError(Layer8Error):
    """The policy cannot be used. `where`: the file and the rule; `what`: what is wrong there."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where = where
        self.what = what

    def __str__(self) -> str:
        return f"policy {self.where}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A literal name, or with `is_prefix` every name that begins so."""

    text: str
    is_prefix: bool = False

    @classmethod
    def parse(cls, written: str) -> Pattern:
        """Raises ValueError for a star or a backslash that means nothing."""
        if "\\" not in written and written:  # by far the most
            star = written.find("*")
            if star < 0:
                return cls(text=written)
            if star == len(written) - 1:
                return cls(text=written[:-1], is_prefix=True)
        signs: list[str] = []
        rest = iter(enumerate(written))
        for at, sign in rest:
            if sign == "\\":
                _, escaped = next(rest, (at, ""))
                if escaped not in ("*", "\\") or not escaped:
                    raise ValueError(f"{written!r} has a backslash in front of neither a star nor a backslash")
                signs.append(escaped)
            elif sign == "*" and at == len(written) - 1:
                return cls(text="".join(signs), is_prefix=True)
            elif sign == "*":
                raise ValueError(rf"{written!r} has a star that is not at its end; a star of the name is written \*")
            else:
                signs.append(sign)
        if not signs:
            raise ValueError("an empty name fits nothing")
        return cls(text="".join(signs))

    def matches(self, name: str) -> bool:
        return name.startswith(self.text) if self.is_prefix else name == self.text

    def __str__(self) -> str:
        text = self.text.replace("\\", "\\\\").replace("*", "\\*")
        return f"{text}*" if self.is_prefix else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `what`: for each action that it speaks of, the kinds and names. `label`: what people call it."""

    deny: bool
    label: str
    who: tuple[Pattern, ...]
    what: tuple[tuple[Action, ResourceKind, Pattern], ...]

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was decided, and by which rule; None: no rule fits, which is a no."""

    allowed: bool
    rule: Rule | None

    def __str__(self) -> str:
        if self.rule is None:
            return "denied: no rule allows it"
        return f"{'allowed' if self.allowed else 'denied'} by {self.rule}"


class Policy:
    """Rules, decided in memory. Never changes; any thread. `generation`: which one it is, for Decision."""

    def __init__(self, rules: Iterable[Rule], generation: int = 1) -> None:
        self.rules = tuple(rules)
        self.generation = generation
        self._deny = _Index()
        self._allow = _Index()
        for number, rule in enumerate(self.rules):
            index = self._deny if rule.deny else self._allow
            for who in rule.who:
                index.add(who, rule.what, number)

    def explain(self, principal: str, action: Action, resource: Resource) -> Verdict:
        """Which rule decides. Takes microseconds."""
        number = self._deny.first(principal, action, resource)
        if number is not None:
            return Verdict(allowed=False, rule=self.rules[number])
        number = self._allow.first(principal, action, resource)
        if number is not None:
            return Verdict(allowed=True, rule=self.rules[number])
        return Verdict(allowed=False, rule=None)

    def decide(self, principal: str, action: Action, resource: Resource) -> Decision:
        verdict = self.explain(principal, action, resource)
        return Decision(allowed=verdict.allowed, reason=str(verdict), generation=self.generation)


class _Names:
    """From a name to the first rule whose literal or prefix fits: one look-up for each length that a prefix has."""

    __slots__ = ("_literals", "_prefixes")

    def __init__(self) -> None:
        self._literals: dict[str, int] = {}
        self._prefixes: dict[int, dict[str, int]] = {}  # by length

    def add(self, pattern: Pattern, number: int) -> None:
        table = self._prefixes.setdefault(len(pattern.text), {}) if pattern.is_prefix else self._literals
        table.setdefault(pattern.text, number)

    def first(self, name: str) -> int | None:
        best = self._literals.get(name)
        for length, table in self._prefixes.items():
            if length <= len(name):
                found = table.get(name[:length])
                if found is not None and (best is None or found < best):
                    best = found
        return best


class _Index:
    """From a principal, an action and a resource to the first rule that fits."""

    def __init__(self) -> None:
        self._literals: dict[str, dict[tuple[Action, ResourceKind], _Names]] = {}
        self._prefixes: dict[int, dict[str, dict[tuple[Action, ResourceKind], _Names]]] = {}  # by length

    def add(self, who: Pattern, what: Iterable[tuple[Action, ResourceKind, Pattern]], number: int) -> None:
        level = self._prefixes.setdefault(len(who.text), {}) if who.is_prefix else self._literals
        tables = level.setdefault(who.text, {})
        for action, kind, pattern in what:
            tables.setdefault((action, kind), _Names()).add(pattern, number)

    def first(self, principal: str, action: Action, resource: Resource) -> int | None:
        best: int | None = None
        for tables in self._of(principal):
            names = tables.get((action, resource.kind))
            if names is not None:
                found = names.first(resource.name)
                if found is not None and (best is None or found < best):
                    best = found
        return best

    def _of(self, principal: str) -> Iterator[dict[tuple[Action, ResourceKind], _Names]]:
        literal = self._literals.get(principal)
        if literal is not None:
            yield literal
        for length, level in self._prefixes.items():
            if length <= len(principal):
                prefix = level.get(principal[:length])
                if prefix is not None:
                    yield prefix


class PolicyFile:
    """A policy file and the last good policy that stood in it. Its owner calls `refresh`; anybody may read `policy`.

    `error`: what is wrong with the file as it is now, None when `policy` is what stands in it.
    """

    def __init__(self, path: Path) -> None:
        """Raises PolicyError: without a policy there is nothing to begin with."""
        self.path = path
        self._seen = _signature(path)
        data = _content(path)
        self._digest = hashlib.sha256(data).digest()  # of what was looked at last
        self._wrong: PolicyError | None = None  # with that
        self.policy = _from(data, path, 1)
        self.error: PolicyError | None = None

    def refresh(self, *, force: bool = False) -> bool:
        """Reads the file if it was changed (`force`: in any case). Whether another policy is in force now.

        Raises PolicyError when it cannot be used, once for each change; the last good policy stays in force.
        """
        seen = _signature(self.path)
        if seen == self._seen and not force:
            return False
        self._seen = seen
        try:
            data = _content(self.path)
            changed = self._take(data)
        except PolicyError as error:
            self.error = error
            raise
        self.error = None
        return changed

    def _take(self, data: bytes) -> bool:
        """What stands in the file now. Whether it is another policy than the one in force."""
        digest = hashlib.sha256(data).digest()
        if digest == self._digest:  # read a moment ago, most likely
            if self._wrong is not None:
                raise self._wrong
            return False
        self._digest, self._wrong = digest, None
        try:
            self.policy = _from(data, self.path, self.policy.generation + 1)
        except PolicyError as error:
            self._wrong = error
            raise
        return True


def _signature(path: Path) -> tuple[int, ...]:
    """Changes when the file does; also when another one takes its name."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


# ── reading ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(path: Path, generation: int = 1) -> Policy:
    """The policy in a file. Raises PolicyError, also for a file that everybody may write."""
    return _from(_content(path), path, generation)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & stat.S_IWOTH:
                raise PolicyError(str(path), "everybody may write this file; chmod o-w it")
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise PolicyError(str(path), f"it cannot be read: {error.strerror or error}") from error
    if len(data) > LARGEST_FILE:
        raise PolicyError(str(path), f"it has more than {LARGEST_FILE} bytes")
    return data


def _from(data: bytes, path: Path, generation: int) -> Policy:
    try:
        document = tomli.loads(data.decode())
    except (tomli.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(str(path), f"it is not TOML: {error}") from error
    return parse(document, str(path), generation)


def parse(document: Mapping[str, object], where: str = "", generation: int = 1) -> Policy:
    """Checks a whole document. Raises PolicyError for the first thing wrong."""
    for key in document:
        if key not in ("allow", "deny"):
            raise PolicyError(where, f"unknown key {key!r}; a policy has the tables [[allow]] and [[deny]]")
    if not document:
        raise PolicyError(where, "it has no rule, so nobody could even attach; write at least one [[allow]]")
    rules: list[Rule] = []
    for kind, tables in document.items():
        if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
            raise PolicyError(where, f"write [[{kind}]], with two brackets, for each rule")
        rules += [_rule(kind, number, table, where) for number, table in enumerate(tables, 1)]
    return Policy(rules, generation)


def parse_resource(text: str, action: Action) -> Resource:
    """A resource as it is written for people: a kind and a name, or a name of the kind that `action` is for.

    Never a pattern. Raises ValueError for a kind on which this action is not possible.
    """
    kind, name = _kind_and_name(text)
    if kind is None:
        return Resource(kind=_KINDS[action][0], name=name)
    if kind not in _KINDS[action]:
        raise ValueError(f"{action.value} is not possible on {kind.value}")
    return Resource(kind=kind, name=name)


def _rule(kind: str, number: int, table: Mapping[str, object], where: str) -> Rule:
    place = f"{where}: {kind} rule {number}"
    for key in table:
        if key not in ("name", "who", "may", "what"):
            raise PolicyError(place, f"unknown key {key!r}; a rule has who, may, what and perhaps a name")
    name = table.get("name", "")
    if not isinstance(name, str):
        raise PolicyError(place, "its name is not a string")
    label = f"{kind} rule {number}" + (f" ({name})" if name else "")
    try:
        who = tuple(Pattern.parse(text) for text in _strings(table, "who"))
        may = _strings(table, "may")
        what = tuple(_what(_actions(may), _strings(table, "what"), all_of_use="*" not in may))
    except ValueError as error:
        raise PolicyError(place, str(error)) from error
    return Rule(deny=kind == "deny", label=label, who=who, what=what)


def _strings(table: Mapping[str, object], key: str) -> list[str]:
    if key not in table:
        raise ValueError(f"it lacks {key!r}; nothing is meant by leaving it out")
    value = table[key]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{key} is a string or a list of strings, at least one")
    return texts


def _actions(texts: list[str]) -> list[Action]:
    if "*" in texts:
        return list(Action)
    actions = []
    for text in texts:
        try:
            actions.append(Action(text))
        except ValueError:
            known = ", ".join(action.value for action in Action)
            raise ValueError(f"{text!r} is no action; there are {known}") from None
    return actions


def _what(
    actions: list[Action], texts: list[str], *, all_of_use: bool
) -> Iterator[tuple[Action, ResourceKind, Pattern]]:
    """For each action the resources among `texts` that it is possible on. Each resource must be of use to some
    action, and with `all_of_use` each action must have some resource."""
    used: set[Action] = set()
    for text in texts:
        kind, name = _kind_and_name(text)
        pattern = Pattern.parse(name)
        fits = False
        for action in actions:
            kinds = _KINDS[action]
            if kind is not None:
                kinds = tuple(possible for possible in kinds if possible is kind)
            elif text != "*":
                kinds = kinds[:1]
            for possible in kinds:
                fits = True
                used.add(action)
                yield action, possible, pattern
        if not fits:
            raise ValueError(f"{text!r} is of a kind on which none of its actions is possible")
    unused = next((action for action in actions if action not in used), None)
    if unused is not None and all_of_use:
        raise ValueError(f"{unused.value} is not possible on any of its resources")


def _kind_and_name(text: str) -> tuple[ResourceKind | None, str]:
    first, space, rest = text.partition(" ")
    kind = _KIND_NAMES.get(first) if space else None
    return (kind, rest) if kind is not None else (None, text)


_KIND_NAMES = {kind.value: kind for kind in ResourceKind}
