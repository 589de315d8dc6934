#!/bin/sh
# A service of three copies: each answers on a port of its own; one is killed and comes back.
# needs: python3 python3-minimal
set -eu
dir=$PLENUM_EXAMPLE_DIR/cell
"$PLENUM" dev examples/web.toml --dir "$dir" &
cell=$!
trap 'kill "$cell" 2>/dev/null && wait "$cell" || true' EXIT
trap 'exit 1' INT TERM

# Waits until a command succeeds, at most half a minute.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || { echo "waited in vain for: $*" >&2; exit 1; }
        sleep 0.1
    done
}
until_true test -s "$dir/server/address"
PLENUM_ADDR=http://$(cat "$dir/server/address" | sed 's|^http://||')
export PLENUM_ADDR

running() { "$PLENUM" alloc list --filter state=running -o name; }
three_run() { [ "$(running | wc -l)" -eq 3 ]; }
url_of() { "$PLENUM" alloc logs "$1" | head -n 1; }
has_url() { url_of "$1" | grep -q '^http://127.0.0.1:'; }
ask() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end="")' "$1"; }

until_true three_run
for id in $(running); do
    until_true has_url "$id"
    ask "$(url_of "$id")"
done | sort

victim=$(running | head -n 1)
ask "$(url_of "$victim")crash" 2>/dev/null || true
gone() { ! running | grep -qx "$victim"; }
until_true gone
until_true three_run
echo "one was killed, and three run again"
for id in $(running); do
    until_true has_url "$id"
    ask "$(url_of "$id")"
done | sort
