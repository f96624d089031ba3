"""What carries a Vnic to a Vnet on another host: the same on both sides.

A carrier stands between a control socket and a TLS connection and keeps the two ends of a mirrored segment the same.
The Vnic's library on the one side and the Vnet's admission and switch on the other see a Unix socket and a segment, as
always; what differs between the two carriers stands with them, in `layer8.vnic` and `layer8.vnet`.
"""

from layer8.carrier.pump import CarrierEnded, ConnectionCut, Pump, Side, first_message
from layer8.carrier.traffic import Traffic

__all__ = ["CarrierEnded", "ConnectionCut", "Pump", "Side", "Traffic", "first_message"]
