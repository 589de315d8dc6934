"""Service discovery: where the services of a cell can be reached, in a file for other programs.

    PLENUM_ADDR=http://127.0.0.1:7070 python discovery.py services.json

It lists, by `namespace/job/group`, each allocation with ports of a job that runs for ever, if it is running and ready and its machine can be reached. `host`
is the machine's attribute `address`, which operators set in the agent's file, or else its name. `ready` means that the program was started: there are no health
checks, so who connects may find nobody for a moment. Behind a port may be somebody else later, which `allocation` tells.

While the picture is not current (the server is away, this program was late, another cell answers) the file stays as it is. While it is, the file's time
of modification is that of the last second, so readers see how old it may be. One program writes a file. It begins with what is in it, and remembers by it
which cell that is: who means to have another cell's services there removes the file first.

A state that it does not know, as of a newer server, is none that can be reached: that allocation, or all on that machine, is left out.
"""
import json, os, pathlib, signal, sys
from mirror import Mirror
from plenum.v1 import types_pb2 as types

REACHABLE = (types.READY, types.CORDONED, types.DRAINING)
# A machine is unreachable once its lease has run out, and what it runs goes on: where the way to many machines is cut for a moment, the file should not be
# empty at once. 0: such a machine is left out as soon as the cell says so.
UNREACHABLE_SECONDS = 5
# What an agent has no trace of it says once it is registered, and told what the cell takes for running there: so long after that it is believed.
SETTLING_SECONDS = 3


def services(picture, log_micros: int, before: dict, since: dict, begun_at: int = 0) -> dict:
    """Rows by service. `before` are those that were written last, and `since` remembers, from one call to the next, when each agent was heard first. An epoch
    that began by the revision `begun_at` was seen before this program was started."""
    # What a backup says of a machine is old until its agent was heard, which begins an epoch above these. What was published of it stays until then, or
    # until it is unreachable for want of an agent.
    restored = (picture.incarnation - 1) << 26
    heard, unheard = {}, set()
    for slot, machine in picture.machines.items():
        away = machine.state == types.UNREACHABLE and log_micros - machine.since_micros < UNREACHABLE_SECONDS * 1_000_000
        if machine.state not in REACHABLE and not away:
            continue
        is_heard = machine.epoch > restored
        if is_heard and restored and machine.epoch_began > begun_at:
            is_heard = log_micros - since.setdefault((picture.incarnation, machine.id), log_micros) >= SETTLING_SECONDS * 1_000_000
        if is_heard:
            heard[slot] = machine
        else:
            unheard.add(machine.name)
    for gone in since.keys() - {(picture.incarnation, machine.id) for machine in picture.machines.values()}:
        del since[gone]
    listed = {}
    for name, rows in before.items():
        if kept := [row for row in rows if row["machine"] in unheard]:
            listed[name] = kept
    for allocation in picture.allocations.values():
        machine, shape = heard.get(allocation.machine), picture.jobs[allocation.job].shape
        if machine is None or shape.kind != types.FOREVER or not allocation.ports:
            continue
        # Who leaves is in another state than RUNNING.
        if allocation.state != types.RUNNING or not allocation.ready:
            continue
        listed.setdefault(f"{shape.namespace}/{shape.name}/{shape.groups[allocation.group].name}", []).append({
            "allocation": f"alloc-{allocation.id & 0xFFFFFFFF}-{allocation.id >> 32}", "task": allocation.task, "machine": machine.name,
            "host": machine.attributes.get("address", machine.name), "ports": dict(sorted(allocation.ports.items()))})
    return {name: sorted(listed[name], key=lambda row: (row["task"], row["allocation"])) for name in sorted(listed)}


def write(path, content: dict):
    """Readers find the old file or the new one, whole, also after a power cut."""
    fresh = path.with_name(path.name + ".new")
    with open(fresh, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def tell(before: dict, after: dict):
    rows = [{(name, row["allocation"]) for name in listed for row in listed[name]} for listed in (before, after)]
    for name, allocation in sorted(rows[0] - rows[1]):
        print(f"{name} is without {allocation}", flush=True)
    for name, allocation in sorted(rows[1] - rows[0]):
        print(f"{name} has {allocation}", flush=True)


def run(address: str, path):
    written = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"services": {}}
    mirror, is_due, since = Mirror(address, "user/discovery"), True, {}
    if "cell" in written:
        mirror.seen = {"cell_id": bytes.fromhex(written["cell"]), **{f"seen_{what}": written[what] for what in ("incarnation", "revision", "term")}}
    begun = written.get("incarnation"), written.get("revision", 0)
    for picture in mirror.follow():
        # What a file of this incarnation says was written with the agents heard that were heard by then: it is no word of a backup.
        begun_at = begun[1] if begun[0] == picture.incarnation else 0
        content = {"cell": mirror.seen["cell_id"].hex(), "incarnation": picture.incarnation, "term": mirror.seen["seen_term"],
                   "revision": picture.revision, "services": services(picture, mirror.log_micros(), written["services"], since, begun_at)}
        try:
            if is_due or {**content, "revision": 0} != {**written, "revision": 0}:
                write(path, content)
                tell(written["services"], content["services"])
                written = content
            else:
                os.utime(path)
            is_due = False
        except OSError as error:
            # As on a full disk, or where somebody has removed it: the next heartbeat tries again.
            is_due = True
            print(f"{path} is not written: {error}", flush=True)


if __name__ == "__main__":
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked_to_end, lambda *_: sys.exit())
    run(os.environ.get("PLENUM_ADDR", "127.0.0.1:7070"), pathlib.Path(sys.argv[1]))
