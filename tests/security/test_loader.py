"""Which provider a program or a configuration gets."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from layer8.security import LocalProvider, load_provider
from layer8.security.files import StateError
from layer8.testing import make_overlay


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("made_provider")
    monkeypatch.setitem(sys.modules, "made_provider", made)
    return made


@pytest.mark.parametrize("spec", [None, "local"])
def test_nothing_given_is_the_local_provider(spec: str | None) -> None:
    assert isinstance(load_provider(spec), LocalProvider)


def test_an_object_is_the_provider_itself() -> None:
    provider = LocalProvider()
    assert load_provider(provider) is provider


def test_a_string_names_a_factory(module: types.ModuleType) -> None:
    provider = LocalProvider()
    module.factory = lambda: provider  # type: ignore[attr-defined]
    module.inside = types.SimpleNamespace(factory=lambda: provider)  # type: ignore[attr-defined]
    assert load_provider("made_provider:factory") is provider
    assert load_provider("made_provider:inside.factory") is provider


def test_the_environment_decides_where_nothing_is_given(tmp_path: Path) -> None:
    overlay = make_overlay(tmp_path, "shop")
    web, other = overlay.vnic("web"), overlay.vnic("other")
    for spec, environ, expected in (
        (None, {"LAYER8_IDENTITY": web}, "<X509Provider layer8://shop/vnic/web>"),
        ("x509", {"LAYER8_IDENTITY": web}, "<X509Provider layer8://shop/vnic/web>"),
        (f"x509:{other}", {"LAYER8_IDENTITY": web}, "<X509Provider layer8://shop/vnic/other>"),
        (None, {"LAYER8_SECURITY": f"x509:{other}", "LAYER8_IDENTITY": web}, "<X509Provider layer8://shop/vnic/other>"),
        (None, {"LAYER8_SECURITY": "local", "LAYER8_IDENTITY": web}, repr(LocalProvider())),
        ("local:1234", {"LAYER8_IDENTITY": web}, "LocalProvider(uid=1234)"),
        ("local:root", {}, "LocalProvider(uid=0)"),
    ):
        assert repr(load_provider(spec, environ)) == expected


def test_the_usual_place_of_an_identity_is_in_the_users_configuration(tmp_path: Path) -> None:
    overlay = make_overlay(tmp_path)
    (tmp_path / "layer8").mkdir()
    Path(overlay.vnic("web")).rename(tmp_path / "layer8" / "identity")
    assert repr(load_provider("x509", {"XDG_CONFIG_HOME": str(tmp_path)})) == "<X509Provider layer8://test/vnic/web>"


def test_an_identity_that_is_not_there_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nowhere"):
        load_provider(f"x509:{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="no user"):
        load_provider("local:nobody-has-this-name")


def test_a_class_is_its_own_factory() -> None:
    assert isinstance(load_provider("layer8.security.local:LocalProvider"), LocalProvider)


@pytest.mark.parametrize("spec", ["", "module", "module:", ":factory"])
def test_a_string_of_another_form_is_a_value_error(spec: str) -> None:
    with pytest.raises(ValueError, match="module:factory"):
        load_provider(spec)


def test_what_lacks_operations_is_a_type_error_that_names_them() -> None:
    class Half:
        attests_keys = False

        def fingerprint(self) -> bytes:
            return b""

    with pytest.raises(TypeError, match="lacks tls, prove, verify, authorize, watch, audit"):
        load_provider(Half())


def test_a_class_instead_of_an_object_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="class LocalProvider"):
        load_provider(LocalProvider)


def test_a_factory_that_is_none_or_makes_none_is_a_type_error(module: types.ModuleType) -> None:
    module.value = 7  # type: ignore[attr-defined]
    module.factory = lambda: 7  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="not callable"):
        load_provider("made_provider:value")
    with pytest.raises(TypeError, match="returned"):
        load_provider("made_provider:factory")


def test_what_the_import_or_the_factory_raises_comes_through(module: types.ModuleType) -> None:
    def factory() -> None:
        raise FileNotFoundError("no key")

    module.factory = factory  # type: ignore[attr-defined]
    with pytest.raises(FileNotFoundError, match="no key"):
        load_provider("made_provider:factory")
    with pytest.raises(ModuleNotFoundError):
        load_provider("no_such_module_at_all:factory")
    with pytest.raises(AttributeError):
        load_provider("made_provider:missing")
