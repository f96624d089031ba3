"""What an interest counts as missed, over the loss of Vnets and of segments."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from layer8.vnic.attachment import Attachment
from layer8.vnic.topics import Interest
from layer8.vnic.waiting import Turn


class Port:
    def __init__(self, counts: list[int]) -> None:
        self.missed = counts.__getitem__


def on(counts: list[int]) -> Attachment:
    """An attachment with a segment whose counts these are."""
    return cast(Attachment, SimpleNamespace(port=Port(counts)))


def test_what_an_earlier_subscription_missed_under_the_number_does_not_count() -> None:
    counts = [7]
    interest, attachment = Interest("topic", 0, Turn()), on(counts)
    interest.confirm(attachment)
    assert interest.missed == 0
    counts[0] += 2
    assert interest.missed == 2


def test_the_count_of_an_adopted_segment_goes_on_with_what_was_added_since_the_vnet_was_lost() -> None:
    counts = [7]
    interest, attachment = Interest("topic", 0, Turn()), on(counts)
    interest.confirm(attachment)
    counts[0] += 2
    interest.lose()
    counts[0] += 4  # noted by the Vnet before it died, and carried here only now
    assert interest.missed == 2
    interest.confirm(attachment)
    assert interest.missed == 6
    counts[0] += 1
    assert interest.missed == 7


def test_on_a_fresh_segment_what_was_missed_before_still_counts() -> None:
    counts = [7]
    interest = Interest("topic", 0, Turn())
    interest.confirm(on(counts))
    counts[0] += 2
    interest.lose()
    fresh = [0]
    interest.confirm(on(fresh))
    assert interest.missed == 2
    fresh[0] += 3
    assert interest.missed == 5
