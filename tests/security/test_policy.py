"""Policy files: what may stand in them, and what they decide."""

from __future__ import annotations

import os
import random
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layer8.security.policy import Pattern, Policy, PolicyError, PolicyFile, parse, parse_resource, read
from layer8.security.provider import Action, Resource, ResourceKind

FEED = "layer8://shop/vnic/feed"
EXAMPLE = r"""
[[allow]]
name = "prices out"
who  = "layer8://shop/vnic/feed*"
may  = "publish"
what = "prices.*"

[[allow]]
who  = ["layer8://shop/vnic/web", "layer8://shop/vnic/app"]
may  = ["send", "request", "subscribe", "attach"]
what = ["store", "topic prices.*", "overlay shop", "vnic layer8://shop/vnic/clerk"]

[[deny]]
name = "not gold"
who  = "*"
may  = "*"
what = 'topic prices.gold'

[[allow]]
who = "layer8://shop/vnic/star"
may = ["publish", "serve"]
what = ['topic \*', 'topic a\\b', 'alias topic x']
"""


def policy(text: str) -> Policy:
    return parse(tomllib.loads(text), "p.toml")


def on(kind: ResourceKind, name: str) -> Resource:
    return Resource(kind=kind, name=name)


@pytest.mark.parametrize(
    ("who", "action", "kind", "name", "answer"),
    [
        (FEED, "publish", "topic", "prices.silver", "allowed by allow rule 1 (prices out)"),
        (FEED, "publish", "topic", "prices.", "allowed by allow rule 1 (prices out)"),
        (FEED + "-2", "publish", "topic", "prices.silver", "allowed by allow rule 1 (prices out)"),
        (FEED, "publish", "topic", "prices", "denied: no rule allows it"),
        (FEED, "publish", "topic", "prices.gold", "denied by deny rule 1 (not gold)"),
        (FEED, "publish", "topic", "prices.gold.bars", "allowed by allow rule 1 (prices out)"),
        (FEED, "subscribe", "topic", "prices.silver", "denied: no rule allows it"),
        ("layer8://shop/vnic/fee", "publish", "topic", "prices.silver", "denied: no rule allows it"),
        ("layer8://shop/vnic/web", "send", "alias", "store", "allowed by allow rule 2"),
        ("layer8://shop/vnic/app", "request", "alias", "store", "allowed by allow rule 2"),
        ("layer8://shop/vnic/app", "serve", "alias", "store", "denied: no rule allows it"),
        ("layer8://shop/vnic/app", "send", "vnic", "layer8://shop/vnic/clerk", "allowed by allow rule 2"),
        ("layer8://shop/vnic/app", "send", "alias", "layer8://shop/vnic/clerk", "denied: no rule allows it"),
        ("layer8://shop/vnic/app", "attach", "overlay", "shop", "allowed by allow rule 2"),
        ("layer8://shop/vnic/app", "attach", "overlay", "shop2", "denied: no rule allows it"),
        ("layer8://shop/vnic/star", "publish", "topic", "*", "allowed by allow rule 3"),
        ("layer8://shop/vnic/star", "publish", "topic", "anything", "denied: no rule allows it"),
        ("layer8://shop/vnic/star", "publish", "topic", "a\\b", "allowed by allow rule 3"),
        ("layer8://shop/vnic/star", "serve", "alias", "topic x", "allowed by allow rule 3"),
        ("", "attach", "overlay", "shop", "denied: no rule allows it"),
    ],
)
def test_the_rule_that_decides_is_named(who: str, action: str, kind: str, name: str, answer: str) -> None:
    assert str(policy(EXAMPLE).explain(who, Action(action), on(ResourceKind(kind), name))) == answer


@pytest.mark.parametrize("name", ["prices.*", "prices.>", "prices.", "*", ">", "prices.?", "prices.[ab]", "prices..*"])
def test_signs_of_other_systems_patterns_are_names_in_a_question(name: str) -> None:
    rules = policy("[[allow]]\nwho='u'\nmay='publish'\nwhat='prices.gold'")
    assert not rules.explain("u", Action.PUBLISH, on(ResourceKind.TOPIC, name)).allowed
    literal = policy(f"[[allow]]\nwho='u'\nmay='publish'\nwhat='topic {name.replace('*', chr(92) + '*')}'")
    for other in ("prices.gold", "prices.x", "x", "prices..gold"):
        assert not literal.explain("u", Action.PUBLISH, on(ResourceKind.TOPIC, other)).allowed
    assert literal.explain("u", Action.PUBLISH, on(ResourceKind.TOPIC, name)).allowed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no rule"),
        ("# nothing\n", "it has no rule"),
        ("[[allow]]\nwho='a'\nmay='shout'\nwhat='*'", "'shout' is no action; there are attach"),
        ("[[allow]]\nwho='a'\nmay='send'", "lacks 'what'"),
        ("[[allow]]\nmay='send'\nwhat='*'", "lacks 'who'"),
        ("[[allow]]\nwho='a'\nwhat='*'", "lacks 'may'"),
        ("[[allow]]\nwho=[]\nmay='send'\nwhat='*'", "at least one"),
        ("[[allow]]\nwho=3\nmay='send'\nwhat='*'", "a string or a list"),
        ("[[allow]]\nwho='a*b'\nmay='send'\nwhat='*'", "a star that is not at its end"),
        ("[[allow]]\nwho=''\nmay='send'\nwhat='*'", "an empty name"),
        ("[[allow]]\nwho='a'\nmay='send'\nwhat='a\\b'", "backslash"),
        ("[[allow]]\nwho='a'\nmay='send'\nwhat='a\\'", "backslash"),
        ("[[allow]]\nwho='a'\nmay='send'\nwhat='topic x'", "none of its actions is possible"),
        ("[[allow]]\nwho='a'\nmay=['send', 'publish']\nwhat='topic x'", "send is not possible"),
        ("[[allow]]\nwho='a'\nmay='send'\nwhat='x'\nwhen='now'", "unknown key 'when'"),
        ("[[allow]]\nwho='a'\nmay='send'\nwhat='x'\nname=1", "name is not a string"),
        ("[allow]\nwho='a'\nmay='send'\nwhat='x'", "two brackets"),
        ("allow = [1]", "two brackets"),
        ("[[permit]]\nwho='a'", "unknown key 'permit'"),
        ("[[allow", "it is not TOML"),
    ],
)
def test_a_file_that_says_nothing_clear_is_refused_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(PolicyError) as caught:
        read(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be read: No such file"):
        read(tmp_path / "none.toml")
    with pytest.raises(PolicyError, match="cannot be read: Is a directory"):
        read(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xff\n")
    with pytest.raises(PolicyError, match="not TOML"):
        read(tmp_path / "latin.toml")


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(EXAMPLE)
    path.chmod(0o666)
    with pytest.raises(PolicyError, match="everybody may write"):
        read(path)


def test_a_file_that_stops_parsing_leaves_the_last_good_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(EXAMPLE)
    file = PolicyFile(path)
    good = file.policy
    assert not file.refresh()
    path.write_text("[[allow]]\nwho = ")
    with pytest.raises(PolicyError):
        file.refresh()
    assert file.policy is good
    assert "it is not TOML" in str(file.error)
    assert not file.refresh()  # said once
    path.unlink()
    with pytest.raises(PolicyError):
        file.refresh()
    assert file.policy is good
    other = tmp_path / "other"
    other.write_text("[[allow]]\nwho='*'\nmay='*'\nwhat='*'")
    os.replace(other, path)
    assert file.refresh()
    assert file.error is None
    assert file.policy.generation == good.generation + 1
    assert file.policy.explain("x", Action.HOST, on(ResourceKind.PRINCIPAL, "y")).allowed


def test_the_first_policy_must_be_good(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        PolicyFile(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "action", "kind", "name"),
    [
        ("store", Action.SEND, ResourceKind.ALIAS, "store"),
        ("vnic layer8://o/vnic/x", Action.SEND, ResourceKind.VNIC, "layer8://o/vnic/x"),
        ("prices.*", Action.PUBLISH, ResourceKind.TOPIC, "prices.*"),
        ("topic topic x", Action.SUBSCRIBE, ResourceKind.TOPIC, "topic x"),
        ("shop", Action.ATTACH, ResourceKind.OVERLAY, "shop"),
    ],
)
def test_a_resource_is_written_with_or_without_its_kind(
    text: str, action: Action, kind: ResourceKind, name: str
) -> None:
    assert parse_resource(text, action) == Resource(kind=kind, name=name)


def test_an_action_on_a_kind_that_it_is_not_for_is_an_error() -> None:
    with pytest.raises(ValueError, match="publish is not possible on alias"):
        parse_resource("alias store", Action.PUBLISH)


# ── against a model that is too simple to be wrong ─────────────────────────────────────────────────────────────────

_SIGNS = "ab.*\\>"
_names = st.text(_SIGNS, min_size=1, max_size=5)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("*", "\\*")


_patterns = st.one_of(
    _names.map(_escaped), st.text(_SIGNS, max_size=3).map(lambda name: _escaped(name) + "*"), st.just("*")
)
_on = {
    Action.SEND: ("alias", "vnic"),
    Action.REQUEST: ("alias", "vnic"),
    Action.PUBLISH: ("topic",),
    Action.SUBSCRIBE: ("topic",),
    Action.SERVE: ("alias",),
    Action.ATTACH: ("overlay",),
}
_pairs = [(action, kind) for action, kinds in _on.items() for kind in kinds]


class Rule(NamedTuple):
    effect: str
    who: list[str]
    pair: tuple[Action, str]
    what: list[str]


_rules = st.builds(
    Rule,
    effect=st.sampled_from(["allow", "deny"]),
    who=st.lists(_patterns, min_size=1, max_size=2),
    pair=st.sampled_from(_pairs),
    what=st.lists(_patterns, min_size=1, max_size=3),
)
_questions = st.tuples(_names, st.sampled_from(_pairs), _names)


def _fits(pattern: str, name: str) -> bool:
    """The naive model's own reading of a pattern: sign by sign."""
    at = 0
    while pattern:
        if pattern == "*":
            return True
        if pattern[0] == "\\":
            pattern = pattern[1:]
        if at >= len(name) or name[at] != pattern[0]:
            return False
        pattern, at = pattern[1:], at + 1
    return at == len(name)


def _naive(rules: list[Rule], question: tuple[str, tuple[Action, str], str]) -> tuple[bool, str]:
    who, pair, name = question
    answer = (False, "")
    for effect in ("deny", "allow"):
        number = 0
        for rule in rules:
            number += rule.effect == effect
            if (
                rule.effect == effect
                and rule.pair == pair
                and any(_fits(pattern, who) for pattern in rule.who)
                and any(_fits(pattern, name) for pattern in rule.what)
            ):
                return effect == "allow", f"{effect} rule {number}"
    return answer


def _check(rules: list[Rule], questions: list[tuple[str, tuple[Action, str], str]]) -> None:
    document: dict[str, list[object]] = {}
    for rule in rules:
        action, kind = rule.pair
        what = [f"{kind} {pattern}" for pattern in rule.what]
        document.setdefault(rule.effect, []).append({"who": rule.who, "may": [action.value], "what": what})
    checked = parse(document)
    for question in questions:
        who, (action, kind), name = question
        verdict = checked.explain(who, action, on(ResourceKind(kind), name))
        named = "" if verdict.rule is None else str(verdict.rule)
        assert (verdict.allowed, named) == _naive(rules, question), (rules, question)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(_rules, min_size=1, max_size=8), st.lists(_questions, min_size=8, max_size=8))
def test_the_index_decides_as_a_naive_model_does(
    rules: list[Rule], questions: list[tuple[str, tuple[Action, str], str]]
) -> None:
    _check(rules, questions)


def test_the_index_decides_as_a_naive_model_does_ten_thousand_times() -> None:
    """Cheaper draws than hypothesis makes: 10,000 policies, 4 questions each. A failure shows its rules."""
    chance = random.Random(4)

    def name(least: int, most: int) -> str:
        return "".join(chance.choices(_SIGNS, k=chance.randint(least, most)))

    def patterns(most: int) -> list[str]:
        return [
            _escaped(name(1, 4)) if chance.random() < 0.5 else _escaped(name(0, 2)) + "*"
            for _ in range(chance.randint(1, most))
        ]

    answers = set()
    for _ in range(10_000):
        rules: list[Rule] = [
            Rule(chance.choice(("allow", "allow", "deny")), patterns(2), chance.choice(_pairs[:3]), patterns(3))
            for _ in range(chance.randint(1, 8))
        ]
        questions = [(name(1, 4), chance.choice(_pairs[:3]), name(1, 4)) for _ in range(4)]
        _check(rules, questions)
        answers |= {_naive(rules, question) for question in questions}
    assert len(answers) > 10  # the questions were not all answered by no rule


@settings(max_examples=500, deadline=None)
@given(st.text())
def test_a_pattern_is_read_as_it_is_written_or_refused(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except ValueError:
        return
    assert str(pattern) == text
    assert Pattern.parse(str(pattern)) == pattern


def test_a_file_that_is_as_it_was_is_good_again_after_it_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    good = "[[allow]]\nwho='a'\nmay='send'\nwhat='b'"
    path.write_text(good)
    file = PolicyFile(path)
    path.unlink()
    with pytest.raises(PolicyError, match="cannot be read"):
        file.refresh(force=True)
    path.write_text(good)
    assert not file.refresh(force=True)
    assert file.error is None
    path.write_text("nonsense")
    for _ in range(2):
        with pytest.raises(PolicyError, match="not TOML"):
            file.refresh(force=True)
    path.write_text(good)
    assert file.refresh()
    assert file.error is None
