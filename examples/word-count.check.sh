#!/bin/sh
# What the job printed is what a single process counts.
set -eu
counted=$(mktemp)
alone=$(mktemp)
trap 'rm -f "$counted" "$alone"' EXIT
LC_ALL=C
export LC_ALL
cat >"$counted"
cat /usr/share/common-licenses/* | tr -cs A-Za-z '\n' | sort | uniq -c \
    | awk '$2 != "" { print $1, $2 }' | sort -k1,1nr -k2 | head -n 20 >"$alone"
[ "$(wc -l <"$alone")" -eq 20 ]
diff "$alone" "$counted"
