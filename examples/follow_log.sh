#!/usr/bin/env bash
# A log file, followed with tail and published line by line; whoever subscribes sees it grow. A Vnet must run.
# (--pid is GNU tail's: it ends with the reader, then the pipe closes, and pub ends.)
set -euo pipefail
log=$(mktemp)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -f "$log"' EXIT

layer8 -q sub --count 3 example.log &      # ends after three lines
reader=$!
until layer8 --json topics | grep -q example.log; do kill -0 "$reader"; sleep 0.1; done

tail -s 0.1 --pid="$reader" -n +1 -f "$log" | layer8 -q pub example.log --lines &

for line in started working finished; do echo "$line" >>"$log"; done
wait -n                                    # the reader, or who has failed
wait -n
