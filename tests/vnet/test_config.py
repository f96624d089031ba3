"""The configuration: defaults, several Vnets, and an error that names what is wrong."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from layer8.vnet import config
from layer8.vnet.config import ConfigError, VnetConfig


def write(directory: Path, text: str) -> Path:
    path = directory / "vnet.toml"
    path.write_text(text)
    return path


def test_no_file_is_needed() -> None:
    assert config.Config().vnets == (VnetConfig(name="default"),)
    assert VnetConfig().max_message_bytes == 64 << 20


def test_one_file_holds_several_vnets(tmp_path: Path) -> None:
    path = write(
        tmp_path, "log_level = 'debug'\n[vnet.a]\ngrace = 1\n[vnet.b]\nports_per_uid = 3\nsocket = '/x/b.sock'"
    )
    read = config.read(path)
    assert read.log_level == "debug"
    assert read.vnets == (
        VnetConfig(name="a", grace=1),
        VnetConfig(name="b", ports_per_uid=3, socket=Path("/x/b.sock")),
    )
    assert config.read(path, only="b").vnets == read.vnets[1:]


def test_an_empty_file_is_one_default_vnet(tmp_path: Path) -> None:
    assert config.read(write(tmp_path, "")) == config.Config()


def test_a_vnet_that_the_file_lacks_is_an_error_that_lists_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no table \[vnet.c\]; it has a, b"):
        config.read(write(tmp_path, "[vnet.a]\n[vnet.b]"), only="c")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[vnet.a]\nports_per_uuid = 1", "ports_per_uuid"),
        ("[vnet.a]\ngrace = 'long'", r"vnet\.a\.grace: 'long' is not a number"),
        ("[vnet.a]\ngrace = true", r"vnet\.a\.grace"),
        ("[vnet.a]\ngrace = nan", r"vnet\.a\.grace"),
        ("[vnet.a]\nmax_ports = 1.5", "not a whole number"),
        ("[vnet.a]\nmax_ports = 0", "not within 1 and 65535"),
        ("[vnet.a]\nsocket = 'here.sock'", "not an absolute path"),
        ("[vnet.a]\nsecurity = 3", "security"),
        ("[vnet]\ngrace = 1", r"\[vnet.grace\]"),
        ("[vnet.a]\nlisten = 8808", "listen"),
        ("[vnet.a]\nlisten = 'here:there'", "port that is none"),
        ("[vnet.a]\nlisten = ['127.0.0.1:1', 2]", "listen"),
        ("vnet = 3", "vnet"),
        ("log_level = 'loud'", "log_level"),
        ("[vnet.'../x']", "cannot name a Vnet"),
        ("[vnet.a", "vnet.toml"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config.read(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("'0.0.0.0:8808'", ("0.0.0.0:8808",)),
        ("['10.0.0.1:1', '[::1]:2']", ("10.0.0.1:1", "[::1]:2")),
        ("[]", ()),
    ],
)
def test_where_to_listen_is_an_address_or_several(tmp_path: Path, text: str, listen: tuple[str, ...]) -> None:
    (vnet,) = config.read(write(tmp_path, f"[vnet.a]\nlisten = {text}")).vnets
    assert vnet.listen == listen


def test_a_file_that_is_not_there_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: No such file"):
        config.read(tmp_path / "missing.toml")


def test_every_number_has_a_range_that_holds_its_default() -> None:
    numbers = {
        field.name: getattr(VnetConfig(), field.name)
        for field in dataclasses.fields(VnetConfig)
        if isinstance(field.default, int | float) and not isinstance(field.default, bool)
    }
    assert numbers.keys() == config._RANGES.keys()
    for name, default in numbers.items():
        least, most = config._RANGES[name]
        assert least <= default <= most, name


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("file", "wrong")))
    assert str(error) == "file: wrong"
