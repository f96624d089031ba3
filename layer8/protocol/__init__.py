"""Control messages, their codec and their state machines, sans-IO: no socket, no clock, no thread in here."""
