"""Which Security Provider: from what the program or the configuration says."""

from __future__ import annotations

import importlib

from layer8.security.local import LocalProvider
from layer8.security.provider import SecurityProvider


def load_provider(spec: object | str | None) -> SecurityProvider:
    """The provider that `spec` names.

    None or "local": same uid, kernel-checked. "module:factory": what that callable, called without arguments,
    returns. Any other object is the provider itself.

    Raises ValueError for a string of another form, TypeError for an object that lacks operations, and whatever the
    import or the factory raises.
    """
    if spec is None or spec == "local":
        return LocalProvider()
    if isinstance(spec, str):
        module, colon, factory = spec.partition(":")
        if not (module and colon and factory):
            raise ValueError(f'{spec!r} names no Security Provider: "local" or "module:factory" is possible')
        made = importlib.import_module(module)
        for name in factory.split("."):
            made = getattr(made, name)
        if not callable(made):
            raise TypeError(f"{spec} is not callable, so it makes no Security Provider")
        return _checked(made(), f"what {spec} returned")
    return _checked(spec, "what was given as `security`")


def _checked(provider: object, what: str) -> SecurityProvider:
    if isinstance(provider, type):
        raise TypeError(f"{what} is the class {provider.__name__}; an object is needed")
    if isinstance(provider, SecurityProvider):
        return provider
    operations = ("attests_keys", "fingerprint", "tls", "prove", "verify", "authorize", "watch", "audit")
    missing = ", ".join(name for name in operations if not hasattr(provider, name))
    raise TypeError(f"{what} is no Security Provider; it lacks {missing}")
