#!/bin/sh
# A cell, a scheduler of one's own beside it, and a job that asks for it.
set -eu

plenum=${PLENUM:-target/release/plenum}
folder=${PLENUM_EXAMPLE_DIR:-$(mktemp -d)}
# Both packages in one build, so that what they share is compiled once.
cargo build --quiet --release -p plenum -p plenum-sdk --bins --example own-scheduler

"$plenum" dev --machines 2 --dir "$folder/cell" >"$folder/dev.log" 2>&1 &
dev=$!
scheduler=
# Asks both to end, and waits until they have.
clean_up() {
    trap - EXIT
    [ -z "$scheduler" ] || kill "$scheduler" 2>/dev/null || true
    kill "$dev" 2>/dev/null || true
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

"$(dirname "$plenum")/examples/own-scheduler" &
scheduler=$!

"$plenum" job run examples/own-scheduler/job.toml --wait --timeout 60s
"$plenum" job list
"$plenum" txn list --scheduler thrifty

# Asked to end, it closes its session: the next one need not wait and see whether it is still there.
kill "$scheduler"
wait "$scheduler"
scheduler=
tries=0
while "$plenum" scheduler list -o wide | grep -q '^thrifty .* 0/1 '; do
    tries=$((tries + 1))
    [ "$tries" -le 100 ] || { echo "its session is still open" >&2; exit 1; }
    sleep 0.1
done
