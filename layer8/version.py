"""Which layer8 this is. What two of them must agree on (protocols, the segment) has version numbers of its own."""

VERSION = "0.1.0"
