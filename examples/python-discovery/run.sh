#!/bin/sh
# A cell of three machines, a service of three, and a program in Python that writes down where it can be reached. A task is killed and leaves the file, the server
# is killed and the file stays, and what changes afterwards is in it again; each time it is as `plenum alloc list` says.
# needs: protoc protobuf-compiler
# needs: grpc_python_plugin protobuf-compiler-grpc
# needs: /usr/lib/python3/dist-packages/grpc/__init__.py python3-grpcio
# needs: pgrep procps
set -eu

plenum=${PLENUM:-target/release/plenum}
python=${PYTHON:-/usr/bin/python3}
folder=${PLENUM_EXAMPLE_DIR:-$(mktemp -d)}
[ -x "$plenum" ] || cargo build --quiet --release -p plenum

# What the protocol's messages and calls are in Python, as for python-scheduler.
mkdir -p "$folder/stubs"
protoc -I proto --plugin=protoc-gen-grpc_python="$(command -v grpc_python_plugin)" \
    --python_out="$folder/stubs" --grpc_python_out="$folder/stubs" proto/plenum/v1/*.proto
export PYTHONPATH="$folder/stubs" PYTHONDONTWRITEBYTECODE=1
# First without a cell; what goes wrong there is told on standard error.
"$python" examples/python-discovery/tests.py >/dev/null

"$plenum" dev --machines 3 --dir "$folder/cell" >"$folder/dev.log" 2>&1 &
dev=$!
discovery=
# Asks both to end, and waits until they have.
clean_up() {
    trap - EXIT
    [ -z "$discovery" ] || kill "$discovery" 2>/dev/null || true
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
        if [ "$tries" -gt 600 ]; then
            echo "waited in vain for: $*" >&2
            cat "$folder/dev.log" "$folder/discovery.log" "$folder/services.json" >&2
            exit 1
        fi
        sleep 0.1
    done
}
# The cell writes its address once it can be reached.
until_true test -s "$folder/cell/server/address"
address=$(cat "$folder/cell/server/address")
export PLENUM_ADDR="http://${address#http://}"

"$python" examples/python-discovery/discovery.py "$folder/services.json" >"$folder/discovery.log" 2>&1 &
discovery=$!
"$plenum" job run examples/python-discovery/job.toml

# Allocation, machine and port of each row, from the file and from the listing.
from_file() {
    "$python" -c '
import json, sys
for row in json.load(open(sys.argv[1]))["services"].get("default/greeter/web", []):
    print(row["allocation"], row["machine"], row["ports"]["http"])' "$folder/services.json" | sort
}
from_list() {
    "$plenum" alloc list --job greeter -o json | "$python" -c '
import json, sys
for row in json.load(sys.stdin)["items"]:
    if row["state"] == "running" and row["ready"] and not row["unreachable_since"]:
        print(row["id"], row["machine"], row["ports"]["http"])' | sort
}
has() { [ "$(from_file | wc -l)" -eq "$1" ]; }
# The same before and after the file was read: nothing changed in between.
agree() {
    listed=$(from_list)
    [ "$(from_file)" = "$listed" ] && [ "$(from_list)" = "$listed" ]
}
# What answers at PORT to a GET of /PATH.
ask() { "$python" -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' "http://127.0.0.1:$1/$2"; }
answers_as() { [ "$(ask "$1" "")" = "$2" ]; }

until_true has 3
until_true agree
# A task that is ready was started, and may take a moment before it listens.
from_file | while read -r id _ port; do until_true answers_as "$port" "$id"; done
echo "three are listed, and each answers under its own id"

victim=$(from_file | head -n 1)
ask "${victim##* }" crash 2>/dev/null || true
gone() { ! from_file | grep -qx "$victim"; }
until_true gone
until_true has 3
until_true agree
echo "one was killed, another one is listed"

before=$(from_file)
kill -9 "$(pgrep -P "$dev" -f ' server ')"
# It is away for a moment only, and started again at once.
is_cut() { grep -q '^UNAVAILABLE\|^CANCELLED\|^INTERNAL\|^UNKNOWN\|has ended' "$folder/discovery.log"; }
until_true is_cut
[ "$(from_file)" = "$before" ] || { echo "the file has changed while nothing else did" >&2; exit 1; }
goes_on() { grep -q 'goes on after revision' "$folder/discovery.log"; }
until_true goes_on
"$plenum" job scale greeter 2
until_true has 2
until_true agree
echo "the server was killed, and the file goes on"
echo "snapshots: $(grep -c 'follows with a snapshot' "$folder/discovery.log")"

"$plenum" job stop greeter
until_true has 0
until_true agree
echo "the service was stopped, and nothing is listed"
echo "== what the program said"
cat "$folder/discovery.log"
