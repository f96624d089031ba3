#!/usr/bin/env bash
# A log file, followed with tail and published line by line; whoever subscribes sees it grow. A Vnet must run.
set -euo pipefail
log=$(mktemp)
trap 'kill "${follow:-}" 2>/dev/null || true; rm -f "$log"' EXIT

layer8 -q sub --count 3 example.log &      # ends after three lines
reader=$!
until layer8 --json topics | grep -q example.log; do sleep 0.1; done

{ tail -n +1 -f "$log" & echo $! >"$log.pid"; wait; } | layer8 -q pub example.log --lines &
publisher=$!
follow=$(until cat "$log.pid" 2>/dev/null; do sleep 0.1; done); rm -f "$log.pid"

for line in started working finished; do echo "$line" >>"$log"; done
wait "$reader"
kill "$follow"                             # the pipe closes, so pub ends
wait "$publisher"
