#!/bin/sh
# As many jobs as launches, each under a name of its own, and all of them tell from what.
set -eu

output=$(cat)
launched=$(echo "$output" | sed -n 's/^launched: //p')
jobs=$(echo "$output" | sed -n 's/^jobs: //p')
names=$(echo "$output" | sed -n 's/.* launched  *\(tick-[0-9]*\).*/\1/p' | sort -u | wc -l)
if [ "$launched" -lt 3 ] || [ "$launched" -ne "$jobs" ] || [ "$launched" -ne "$names" ]; then
    echo "$launched launches, $names names, $jobs jobs" >&2
    exit 1
fi
