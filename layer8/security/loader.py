"""Which Security Provider: from what the program, its environment or the configuration says.

"local"            same uid, checked by the kernel
"local:UID"        the Vnet of this uid (a number or a name), if that admits us
"x509"             by certificate, with the identity in $LAYER8_IDENTITY, or else ~/.config/layer8/identity
"x509:DIRECTORY"   by certificate, with the identity in this directory
"module:factory"   what that callable, called without arguments, returns
an object          the provider itself
None               what $LAYER8_SECURITY says; else "x509" if $LAYER8_IDENTITY names a directory; else "local"
"""

from __future__ import annotations

import importlib
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from layer8.security.local import LocalProvider
from layer8.security.provider import SecurityProvider

SECURITY = "LAYER8_SECURITY"
IDENTITY = "LAYER8_IDENTITY"

FORMS = '"local", "local:UID", "x509", "x509:DIRECTORY" or "module:factory"'


def load_provider(spec: object | str | None, environ: Mapping[str, str] | None = None) -> SecurityProvider:
    """The provider that `spec` names; see the head of this module.

    Raises ValueError for a string of another form, TypeError for an object that lacks operations, and whatever the
    import, the factory or the identity raises.
    """
    environ = os.environ if environ is None else environ
    if spec is None:
        spec = environ.get(SECURITY) or ("x509" if environ.get(IDENTITY) else "local")
    if not isinstance(spec, str):
        return checked(spec, "what was given as `security`")
    kind, colon, rest = spec.partition(":")
    if kind == "local":
        return LocalProvider(uid_of(rest) if colon else None)
    if kind == "x509" and (not colon or "/" in rest):
        from layer8.security.x509 import X509Provider  # with cryptography, which only this one needs

        return X509Provider(Path(rest).expanduser() if colon else identity_directory(environ))
    return load_factory(spec)


def load_factory(spec: str) -> SecurityProvider:
    """ "module:factory"."""
    module, colon, factory = spec.partition(":")
    if not (module and colon and factory):
        raise ValueError(f"{spec!r} names no Security Provider: {FORMS} is possible")
    made = importlib.import_module(module)
    for name in factory.split("."):
        made = getattr(made, name)
    if not callable(made):
        raise TypeError(f"{spec} is not callable, so it makes no Security Provider")
    return checked(made(), f"what {spec} returned")


def identity_directory(environ: Mapping[str, str]) -> Path:
    """Where the identity of this user's programs is, unless they say otherwise."""
    given = environ.get(IDENTITY)
    if given:
        return Path(given).expanduser()
    config = environ.get("XDG_CONFIG_HOME", "")
    return (Path(config) if os.path.isabs(config) else Path("~/.config").expanduser()) / "layer8" / "identity"


def uid_of(text: str) -> int:
    """A uid, by number or by name. Raises ValueError."""
    if text.isdecimal():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {text!r}") from None


def checked(provider: object, what: str) -> SecurityProvider:
    if isinstance(provider, type):
        raise TypeError(f"{what} is the class {provider.__name__}; an object is needed")
    if isinstance(provider, SecurityProvider):
        return provider
    operations = ("attests_keys", "fingerprint", "tls", "prove", "verify", "authorize", "watch", "audit")
    missing = ", ".join(name for name in operations if not hasattr(provider, name))
    raise TypeError(f"{what} is no Security Provider; it lacks {missing}")
