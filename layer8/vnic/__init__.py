"""The library: `Vnic` and what it gives back."""

from layer8.vnic.statistics import VnicStats
from layer8.vnic.subscription import Service, Stream, Subscription
from layer8.vnic.vnic import Vnic

__all__ = ["Service", "Stream", "Subscription", "Vnic", "VnicStats"]
