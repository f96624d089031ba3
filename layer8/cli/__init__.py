"""The `layer8` command: one module a command, found by its name and loaded when it is called."""
