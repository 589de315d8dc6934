#!/bin/sh
# A cell of two machines with two GPUs each, and a framework that trains on them. A gang waits until its last worker has room, begins anew when
# one of them dies, and again when a more urgent one takes its machines.
set -eu

plenum=${PLENUM:-target/release/plenum}
folder=${PLENUM_EXAMPLE_DIR:-$(mktemp -d)}
# Both packages in one build, so that what they share is compiled once.
cargo build --quiet --release -p plenum -p plenum-sdk --bins --example gang

"$plenum" server --dir "$folder/cell" --listen 127.0.0.1:0 >"$folder/server.log" 2>&1 &
server=$!
others=
# Asks all to end, and waits until they have; the server last, as the others tell it that they go.
clean_up() {
    trap - EXIT
    for process in $others; do
        kill "$process" 2>/dev/null || true
    done
    for process in $others; do
        wait "$process" || true
    done
    kill "$server" 2>/dev/null || true
    wait
}
trap clean_up EXIT
trap 'exit 1' INT TERM

# Waits until a command succeeds, for half a minute.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -le 300 ] || { echo "in vain: $*" >&2; cat "$folder"/*.log >&2; exit 1; }
        sleep 0.1
    done
}

# The cell writes its address once it can be reached.
until_true test -s "$folder/cell/address"
address=$(cat "$folder/cell/address")
export PLENUM_ADDR="http://${address#http://}"

# `plenum dev` takes no files of agents, and devices stand in these. No GPU is needed: the agent offers what its file says.
for machine in gpu-1 gpu-2; do
    printf 'share = 2\nstop_tasks_on_exit = true\n[devices.gpu]\ncount = 2\n' >"$folder/$machine.toml"
    "$plenum" agent --name "$machine" --dir "$folder/$machine" --config "$folder/$machine.toml" \
        >"$folder/$machine.log" 2>&1 &
    others="$others $!"
done
until_true "$plenum" machine show gpu-1
until_true "$plenum" machine show gpu-2
"$(dirname "$plenum")/examples/gang" 2>"$folder/gang.log" &
others="$others $!"

# The job files are made for machines of one core: each GPU comes with two fifths of what there is.
capacity=$("$plenum" machine show gpu-1 -o json | sed -n 's/.*"cpu_millis": *\([0-9]*\).*/\1/p' | sort -n | tail -1)
job_file() {
    sed "s/400m/$((capacity * 2 / 5))m/; s/NAME/$2/; s/COUNT/$3/; s/SECONDS/$4/" "examples/gang/$1.toml" >"$folder/$2.toml"
}
job_file single warm-up 2 60
job_file single eval 1 1
job_file job train - -
job_file urgent urgent - -
# Not `job run --wait`: what is complete by then would run once more.
complete() {
    "$plenum" job list --filter state=complete -o name | grep "^$1"
}
# Why a job waits, once that has a word in it.
why() {
    "$plenum" job show "$1" | grep "waits because.*$2"
}

echo "== two of four GPUs are free: the gang waits, and room is held for it"
"$plenum" job run "$folder/warm-up.toml" --wait=running
"$plenum" job run "$folder/train.toml"
until_true why train holds
why train holds
"$plenum" hold list

echo "== what comes behind it does not get what is held"
"$plenum" job run "$folder/eval.toml"
until_true why eval "no machine"
why eval "no machine"

echo "== room appears: all workers start at once"
"$plenum" job stop warm-up
"$plenum" job run "$folder/train.toml" --wait=running --timeout 20s
"$plenum" txn show "$("$plenum" txn list --filter job=train --limit 1 -o name)"

echo "== the third worker dies: all begin anew"
runs_again() {
    [ "$("$plenum" alloc list --filter job=train,state=running,attempt=2 -o name | wc -l)" -eq 4 ]
}
until_true runs_again
"$plenum" job history train

echo "== a more urgent gang, without the right to evict and with it"
"$plenum" scheduler set gang --evict no
"$plenum" job run "$folder/urgent.toml"
until_true why urgent "may evict nobody"
why urgent "may evict nobody"
"$plenum" scheduler set gang --evict yes
until_true complete urgent
"$plenum" txn show "$("$plenum" txn list --filter job=urgent --limit 1 -o name)"

echo "== in the end all of them ran"
until_true complete train
until_true complete eval
"$plenum" job list
