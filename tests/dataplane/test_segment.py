"""Making a Vnic's segment."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import uuid

import pytest

from layer8.dataplane import Segment

_UUID = uuid.UUID(int=1)


@pytest.mark.parametrize("ring_bytes", [0, 1, 256 << 10, (512 << 10) + 4096, 3 << 20, 2 << 30, -1])
def test_impossible_sizes_are_refused(ring_bytes: int) -> None:
    with pytest.raises(ValueError, match="ring_bytes"):
        Segment.create(ring_bytes, _UUID)


def test_segment_is_sealed_and_allocated() -> None:
    with Segment.create(1 << 20, _UUID) as segment:
        seals = fcntl.fcntl(segment.fd, fcntl.F_GET_SEALS)
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        assert seals & wanted == wanted
        about = os.fstat(segment.fd)
        assert about.st_size == 0x8000 + (5 << 19)
        assert about.st_blocks * 512 >= about.st_size
        assert not os.get_inheritable(segment.fd)


def test_close_is_safe_twice() -> None:
    segment = Segment.create(512 << 10, _UUID)
    segment.close()
    segment.close()
    assert segment.fd == -1


def test_missing_descriptors_are_an_os_error() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError) as raised:
            Segment.create(512 << 10, _UUID)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert raised.value.errno == errno.EMFILE
