"""The shortest program: a Vnic that sends itself a message. A Vnet must run: `layer8 vnet`."""

from layer8 import Vnic

with Vnic("hello") as vnic:
    vnic.send("hello", b"hello, world")
    message = vnic.receive(timeout=5.0)
    print(message.payload.decode())
