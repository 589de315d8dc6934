#!/bin/sh
# There was at least one conflict between the teams, and its culprit is named.
set -eu
output=$(cat)
has() {
    printf '%s\n' "$output" | grep -Eq "$1" || { echo "expected: $2" >&2; exit 1; }
}
has 'blue +green|green +blue' "a row of conflicts with a loser and a winner"
has 'conflict' "a refusal of the kind conflict"
