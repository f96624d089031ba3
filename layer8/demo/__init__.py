"""What `layer8 demo` plays: a Vnet and ten processes doing real work on real data, checked to the last digest.

`stage` starts and ends the processes, `show` is the play and its checks; `worker` is the program that every process of
the play runs, with one role of `metrics`, `library` or `answers`, and `part` what such a process has in hand.
"""
