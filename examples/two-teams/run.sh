#!/bin/sh
# Two teams, each with a scheduler of its own, want the same machines. They race; nobody waits for a lock, nothing is booked
# twice, and afterwards it can be seen who lost what to whom.
set -eu

plenum=${PLENUM:-target/release/plenum}
folder=${PLENUM_EXAMPLE_DIR:-$(mktemp -d)}
# Both packages in one build, so that what they share is compiled once.
cargo build --quiet --release -p plenum -p plenum-sdk --bins --example two-teams

"$plenum" dev --machines 2 --dir "$folder/cell" >"$folder/dev.log" 2>&1 &
dev=$!
teams=
# Asks all to end, and waits until they have.
clean_up() {
    trap - EXIT
    for process in $teams "$dev"; do
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

# The job files are made for two small machines. So that there is too little room on any, each task asks for a fifth of a machine.
tries=0
until [ "$("$plenum" machine list -o name | grep -c machine-)" -eq 2 ]; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || { echo "the machines did not come" >&2; exit 1; }
    sleep 0.1
done
capacity=$("$plenum" machine show machine-1 -o json | sed -n 's/.*"cpu_millis": *\([0-9]*\).*/\1/p' | sort -n | tail -1)
for team in blue green; do
    sed "s/cpu = \"200m\"/cpu = \"$((capacity / 5))m\"/" "examples/two-teams/$team.toml" >"$folder/$team.toml"
    "$plenum" job run "$folder/$team.toml" >&2
done
for team in blue green; do
    "$(dirname "$plenum")/examples/two-teams" "$team" &
    teams="$teams $!"
done
for team in blue green; do
    "$plenum" job run "$folder/$team.toml" --wait --timeout 100s
done

echo "== the latest transactions"
"$plenum" txn list --limit 10
echo "== who lost to whom"
"$plenum" conflicts
echo "== a transaction that lost a race"
"$plenum" txn show "$("$plenum" txn list --refused --limit 1 -o name)"

clean_up
echo "== the log, decided again"
"$plenum" verify --dir "$folder/cell/server"
