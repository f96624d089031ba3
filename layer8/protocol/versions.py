"""What is said where a Vnet and a library are of versions that do not go together, and what to do then."""

from __future__ import annotations

from layer8.errors import Layer8Error


class Incompatible(Layer8Error):
    """The Vnet that is there cannot be used with this library, as long as both stay what they are. Its text says what
    to do."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def difference(what: str, vnet: int, library: int, *, vnet_release: str = "", library_release: str = "") -> str:
    """Text for an Incompatible. `vnet`, `library`: the number of `what` that each has; releases: versions of layer8,
    empty where it did not say."""
    runs = f"runs layer8 {vnet_release} with" if vnet_release else "has"
    library_is = f", layer8 {library_release}," if library_release else ""
    advice = (
        "restart this program with the newer library"
        if vnet > library
        else "restart the Vnet with the newer layer8, or this program with the Vnet's"
    )
    return f"the Vnet {runs} {what} {vnet}, this program's library{library_is} has {library}: {advice}"
