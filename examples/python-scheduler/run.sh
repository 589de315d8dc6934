#!/bin/sh
# A cell of three machines, and a scheduler in Python beside it. The scheduler is killed while tasks wait for it, and so is the server: what was placed
# stays, and what waits is placed afterwards, once.
# needs: protoc protobuf-compiler
# needs: grpc_python_plugin protobuf-compiler-grpc
# needs: /usr/lib/python3/dist-packages/grpc/__init__.py python3-grpcio
# needs: pgrep procps
set -eu

plenum=${PLENUM:-target/release/plenum}
python=${PYTHON:-/usr/bin/python3}
folder=${PLENUM_EXAMPLE_DIR:-$(mktemp -d)}
[ -x "$plenum" ] || cargo build --quiet --release -p plenum

# What the protocol's messages and calls are in Python. With pip's grpcio-tools it is `python -m grpc_tools.protoc … --grpc_python_out`; Debian's, of 2018,
# does not know `optional`.
mkdir -p "$folder/stubs"
protoc -I proto --plugin=protoc-gen-grpc_python="$(command -v grpc_python_plugin)" \
    --python_out="$folder/stubs" --grpc_python_out="$folder/stubs" proto/plenum/v1/*.proto
export PYTHONPATH="$folder/stubs" PYTHONDONTWRITEBYTECODE=1
# What it does when a call fails or a claim is refused, first without a cell; what goes wrong there is told on standard error.
"$python" examples/python-scheduler/tests.py >/dev/null

"$plenum" dev --machines 3 --dir "$folder/cell" >"$folder/dev.log" 2>&1 &
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

# Waits until a command succeeds, at most a minute.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ]; then
            echo "waited in vain for: $*" >&2
            cat "$folder/dev.log" "$folder/scheduler.log" >&2
            exit 1
        fi
        sleep 0.2
    done
}
# The cell writes its address once it can be reached.
until_true test -s "$folder/cell/server/address"
address=$(cat "$folder/cell/server/address")
export PLENUM_ADDR="http://${address#http://}"
has_machines() { [ "$("$plenum" machine list --filter state=ready -o name | wc -l)" -eq 3 ]; }
until_true has_machines

start() {
    "$python" examples/python-scheduler/scheduler.py spread >>"$folder/scheduler.log" 2>&1 &
    scheduler=$!
}
# Submits the job under another name.
submit() {
    sed "s/^name = .*/name = \"$1\"/" examples/python-scheduler/job.toml >"$folder/$1.toml"
    "$plenum" job run "$folder/$1.toml"
}
is_complete() { "$plenum" job list --filter "state=complete,name=$1" -o name | grep -q .; }
is_placed() { "$plenum" alloc list --all --job "$1" -o name | grep -q .; }

start
submit first
until_true is_complete first
echo "== tasks by machine"
"$plenum" alloc list --all --job first | awk 'NR > 1 { print $4 }' | sort | uniq -c

echo "== the scheduler is killed, and started again"
kill -9 "$scheduler"
submit second
start
until_true is_complete second

echo "== the server is killed while some tasks run and others wait"
submit third
until_true is_placed third
submit fourth
kill -9 "$(pgrep -P "$dev" -f ' server ')"
until_true is_complete third
until_true is_complete fourth

"$plenum" job list
"$plenum" txn list --scheduler spread
echo "allocations: $("$plenum" alloc list --all -o name | wc -l)"

"$plenum" job run examples/python-scheduler/too-large.toml
is_explained() { "$plenum" job show too-large | grep -q 'does not judge'; }
until_true is_explained
"$plenum" job show too-large

echo "== an operator pauses the scheduler, and lets it go on"
"$plenum" scheduler pause spread
submit fifth
is_kept_out() { grep -q 'claims nothing: SCHEDULER_PAUSED' "$folder/scheduler.log"; }
until_true is_kept_out
"$plenum" scheduler resume spread
until_true is_complete fifth
"$plenum" job list --filter name=fifth
echo "== what the scheduler said"
cat "$folder/scheduler.log"
