"""First job of the demo: live figures of this host on a topic, to as many as subscribe."""

from __future__ import annotations

import hashlib
import json
import os
import time

import psutil

from layer8.demo.part import Part

TOPIC = "demo.host.metrics"
INTERVAL = 0.02
"""Seconds between two publications."""


def read_metrics() -> dict[str, object]:
    """The figures of this host at this moment."""
    memory = psutil.virtual_memory()
    # Both are None on a host without disks or networks that psutil can see.
    disk = psutil.disk_io_counters()
    network = psutil.net_io_counters()
    return {
        "time": time.time(),
        "cpu_percent": psutil.cpu_percent(percpu=True),
        "load": os.getloadavg(),
        "memory_used": memory.used,
        "memory_available": memory.available,
        "disk_read_bytes": getattr(disk, "read_bytes", 0),
        "disk_write_bytes": getattr(disk, "write_bytes", 0),
        "network_sent_bytes": getattr(network, "bytes_sent", 0),
        "network_received_bytes": getattr(network, "bytes_recv", 0),
    }


def publish(part: Part) -> None:
    """Publishes from "go" to "finish"; the last publication carries the count of all."""
    part.say("ready")
    part.wait_for("go")
    digest = hashlib.sha256()
    count = size = 0
    begun = time.monotonic()
    finished = False
    while not finished:
        finished = part.was_told("finish", INTERVAL)
        payload = json.dumps(read_metrics()).encode()
        count += 1
        size += len(payload)
        digest.update(payload)
        headers = {"number": str(count)} | ({"last": "yes"} if finished else {})
        part.vnic.publish(TOPIC, payload, reliable=True, headers=headers)
    seconds = time.monotonic() - begun
    part.say("result", messages=count, bytes=size, digest=digest.hexdigest(), seconds=seconds)


def subscribe(part: Part) -> None:
    """Takes everything up to the publication that says it is the last one."""
    digest = hashlib.sha256()
    count = size = missed = misplaced = 0
    with part.vnic.subscribe(TOPIC):
        part.say("ready")
        for message in part.vnic:
            count += 1
            size += len(message.payload)
            missed += message.missed
            digest.update(message.payload)
            if str(message.headers["number"]) != str(count):
                misplaced += 1
            if "last" in message.headers:
                break
    part.say("result", messages=count, bytes=size, missed=missed, misplaced=misplaced, digest=digest.hexdigest())
