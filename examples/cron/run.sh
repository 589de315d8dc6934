#!/bin/sh
# A cell, and a framework beside it that launches jobs by the clock. It is killed in between, and two of it run at once for a while:
# each instant is launched once.
set -eu

plenum=${PLENUM:-target/release/plenum}
folder=${PLENUM_EXAMPLE_DIR:-$(mktemp -d)}
# Both packages in one build, so that what they share is compiled once.
cargo build --quiet --release -p plenum -p plenum-sdk --bins --example cron

"$plenum" dev --dir "$folder/cell" >"$folder/dev.log" 2>&1 &
dev=$!
others=
# Asks all to end, and waits until they have.
clean_up() {
    trap - EXIT
    for process in $others "$dev"; do
        kill "$process" 2>/dev/null || true
    done
    wait
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# The cell writes its address once it can be reached.
tries=0
until [ -s "$folder/cell/server/address" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ]; then
        echo "the cell did not start:" >&2
        cat "$folder/dev.log" >&2
        exit 1
    fi
    sleep 0.1
done
address=$(cat "$folder/cell/server/address")
export PLENUM_ADDR="http://${address#http://}"

# Waits until so many of the launched jobs are complete.
complete() {
    tries=0
    until [ "$("$plenum" job list --filter state=complete -o name | grep -c '^tick-')" -ge "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -le 600 ] || { echo "only so many ran:" >&2; "$plenum" job list >&2; exit 1; }
        sleep 0.1
    done
}

"$plenum" scheduler batch >"$folder/batch.log" 2>&1 &
batch=$!
others=$batch
"$plenum" job run examples/cron/job.toml
cron="$(dirname "$plenum")/examples/cron"
"$cron" &
first=$!
others="$others $first"
complete 1
echo "killed"
kill -9 "$first"
"$cron" &
second=$!
others="$batch $second"
"$cron" &
third=$!
others="$others $third"
complete 3
for process in "$second" "$third"; do
    kill -0 "$process" || { echo "one of the two that run at once has ended" >&2; exit 1; }
done
"$plenum" job stop tick
echo "history:"
"$plenum" job history tick
echo "launched: $("$plenum" job history tick | grep -c ' launched ')"
echo "jobs: $("$plenum" job list -o name | grep -c '^tick-')"
