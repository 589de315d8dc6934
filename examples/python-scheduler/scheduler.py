"""A scheduler in Python: each task goes to the emptiest machine that has room for it.

It keeps no mirror, and nothing on disk: each turn asks the cell what is wanted and what is free, so it may be killed at any moment. Room is all that it
judges: groups that ask for more it passes over, and says so; affinities, which are wishes, it leaves out.
"""
import contextlib, os, signal, sys, time
import grpc
from plenum.v1 import commit_pb2 as commit, services_pb2 as api
from plenum.v1.services_pb2_grpc import CellStub, InspectStub

PAUSE_SECONDS = 0.3
# A long time is that by which what is in the way is over at the latest, such as a session that was left behind. It may be sooner.
PAUSE_SECONDS_MAX = 30
# What lists of machines don't tell (a partition that reserves one, a hold on its room) is learned by a refusal, and believed for so long. To the cell
# such a claim looks like a mistake: `plenum txn show` says so, and `plenum_divergences_total` counts those for holds.
AVOID_SECONDS = 60
# What is a matter of the task or of its job says nothing of the machine. It may have come a moment too early, as before the end of a backoff, and is
# claimed again as soon as Wanted names it.
OF_NO_MACHINE = (commit.TASK_TAKEN, commit.NOT_WANTED, commit.NO_SUCH_JOB, commit.JOB_VERSION, commit.RESOURCES_DIFFER, commit.PREDECESSOR,
                 commit.OTHER_SCHEDULER)
# There are no more groups than tasks, and a request has at most 4,096 notes, of which each group gets one.
TASKS_MAX = 4096
# Of one transaction. A gang that is told of whole may bring more.
CLAIMS_MAX = 16384
# gRPC says these of faults of this program, too: a request that it can't write, or an answer that it can't read. A connection that breaks is told of once
# or twice, and then that there is none: so often in a row it is such a fault.
PERHAPS_FAULTS, FAULTS_MAX = [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL], 10
# Without a code of the cell's own: there was no connection, it broke, or this side waited long enough. Which word gRPC has for it depends on where it broke.
UNANSWERED = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, *PERHAPS_FAULTS]
# What became of a transaction nobody learns any more, or it was decided on what this cell does not have. What is still to be done Wanted shows.
DROPPED = ("FUTURE_BASE", "NUMBER_RETIRED", "REVISION_RETIRED", "DAMAGED_HISTORY", "NO_SUCH_REVISION", "INTERNAL")
# It asked for more than the cell takes at once: less of it goes under another number.
TOO_LARGE = ("LIMIT_REACHED", "MESSAGE_TOO_LARGE")
# How much is left of a quota no listing of machines tells, and it may be more at any time. So long a group waits that was refused for it.
QUOTA_PAUSE_SECONDS = 2
UNJUDGED = ("constraints", "spread", "per_machine", "devices", "ports")


class SessionOver(Exception):
    """The cell knows no such session any more, or another cell answers at its address."""


class Paused(Exception):
    """An operator keeps the scheduler's transactions out, until it is resumed."""


def amounts(resources) -> list[int]:
    # Of the five that a cell may name itself, the last ones may be left out.
    custom = [*resources.custom, 0, 0, 0, 0, 0][:5]
    return [resources.cpu_millis, resources.memory_bytes, resources.disk_bytes, *custom]


def less(amounts: list[int], others: list[int]) -> list[int]:
    return [amount - other for amount, other in zip(amounts, others)]


def code_of(error: grpc.RpcError) -> str:
    """The cell's own code of a failure; empty where it says none."""
    return dict(error.trailing_metadata() or ()).get("plenum-code", "")


class Scheduler:
    def __init__(self, name: str, address: str):
        # gRPC alone takes answers of up to 4 MiB, which 10,000 machines may exceed, and lets up to two minutes pass before it connects again.
        options = [("grpc.max_receive_message_length", 256 << 20), ("grpc.max_reconnect_backoff_ms", 1000)]
        channel = grpc.insecure_channel(address.removeprefix("http://"), options)
        self.cell, self.inspect, self.name = CellStub(channel), InspectStub(channel), name
        self.metadata = [("plenum-principal", f"scheduler/{name}")]
        self.session, self.number, self.avoided, self.avoided_since = {}, 0, {}, 0.0
        self.start, self.claims_max, self.over_quota, self.told = {}, CLAIMS_MAX, {}, ""

    def ask(self, call, request):
        """Asks until there is an answer. A request may arrive twice: a transaction of a number that was decided gets the first outcome again, and a session
        that was opened without our hearing of it is closed by the cell."""
        faults, said = 0, ""
        while True:
            try:
                return call(request, metadata=self.metadata, timeout=30)
            except grpc.RpcError as error:
                trailing = dict(error.trailing_metadata() or ())
                code = code_of(error) or error.code().name
                if code in ("NO_SUCH_SESSION", "OTHER_INCARNATION", "OTHER_CELL"):
                    raise SessionOver(code) from error
                after_micros = int(trailing.get("plenum-retry-after-micros", 0))
                if code == "SCHEDULER_PAUSED":
                    # That may last for days: the same would be asked, and nothing be said of what comes meanwhile.
                    time.sleep(after_micros / 1e6)
                    raise Paused(f"{code}: {error.details()}") from error
                faults = faults + 1 if error.code() in PERHAPS_FAULTS else 0
                # Without an answer, or when the cell says so, it makes sense to ask again. All else is a mistake of this program.
                is_fault = "plenum-code" in trailing or error.code() not in UNANSWERED or faults > FAULTS_MAX
                if is_fault and not after_micros:
                    raise
                what = f"asks again after {code}: {error.details()}"
                if what != said:
                    # Once: a server may be away for days.
                    print(what, flush=True)
                said = what
                time.sleep(min(after_micros / 1e6 or PAUSE_SECONDS, PAUSE_SECONDS_MAX))

    def choose(self, group, rooms: dict, claims_left: int) -> tuple[list[int], str]:
        """Slots for the group's first tasks, at most so many, and why there is none for the next one. Takes the room."""
        unjudged = [field for field in UNJUDGED if getattr(group.shape, field)] + ["same_machine"] * group.same_machine
        if unjudged:
            return [], f"{self.name} does not judge {', '.join(unjudged)}"
        since, why = self.over_quota.get((group.job, group.group), (None, ""))
        if since is not None and time.monotonic() - since < QUOTA_PAUSE_SECONDS:
            return [], f"refused: {why}"
        if group.least > self.claims_max:
            return [], f"{group.least} start at once or none, and the cell takes at most {self.claims_max} claims at once"
        tasks, later = group.tasks[:claims_left], "its turn is in a later transaction"
        if len(tasks) < max(group.least, 1):
            return [], later
        refused = {slot: self.avoided.get((group.job, group.group, slot)) for slot in rooms}
        allowed = {slot: room for slot, room in rooms.items() if not refused[slot]}
        need, slots = amounts(group.shape.resources), []
        for _ in tasks:
            fitting = [slot for slot, (free, _) in allowed.items() if min(less(free, need)) >= 0]
            if not fitting:
                break
            slot = max(fitting, key=lambda slot: min((free / most for free, most in zip(*allowed[slot]) if most), default=0))
            allowed[slot] = (less(allowed[slot][0], need), allowed[slot][1])
            slots.append(slot)
        reason = f"the {len(allowed)} machines that are ready and may take it have room for {len(slots)} of {len(group.tasks)}"
        if len(allowed) < len(rooms):
            reason += f" (on others: {', '.join(sorted({why for why in refused.values() if why}))})"
        if len(slots) < group.least:
            return [], f"{reason}, and {group.least} start at once or none"
        rooms.update(allowed)
        if len(slots) == len(tasks):
            reason = later if len(tasks) < len(group.tasks) else ""
        return slots, reason

    def turn(self):
        start, self.start = self.start, {}
        wanted = self.ask(self.cell.Wanted, api.WantedRequest(limit=TASKS_MAX, **start, **self.session))
        if not wanted.groups:
            return
        listed = self.ask(self.inspect.ListMachines, api.ListRequest(filter="state=ready"))
        # A machine's slot, by which claims name it, is the lower half of its id.
        rooms = {machine.id & 0xFFFFFFFF: (less(amounts(machine.capacity), amounts(machine.allocated)), amounts(machine.capacity))
                 for machine in listed.machines}
        if time.monotonic() - self.avoided_since > AVOID_SECONDS:
            # So long what was too large is not tried again, either, unless some of it is granted: it may have been for rows that were given back meanwhile.
            self.avoided, self.over_quota, self.claims_max = {}, {}, CLAIMS_MAX
            self.avoided_since = time.monotonic()
        # What came after the older one of the two answers counts as a race, and not as a mistake.
        base, placements, notes, claims_left = min(wanted.revision, listed.revision), [], {}, self.claims_max
        for group in wanted.groups:
            slots, reason = self.choose(group, rooms, claims_left)
            claims_left -= len(slots)
            about = {"job": group.job, "job_version": group.job_version, "group": group.group}
            # A note stays until the next one about its group, so that one without a reason is due where all fit.
            left = len(group.tasks) - len(slots)
            notes[group.job, group.group] = api.PassedOverNote(tasks=left, reason=reason, revision=base, **about)
            if slots:
                placements.append(commit.Placement(machines=slots, tasks=group.tasks[:len(slots)], min=group.least, **about))
        again = False
        if placements:
            try:
                again = self.claim(base, placements, notes)
            except Paused as paused:
                again = True
                self.claims_nothing(str(paused), placements, notes)
        # What has no room now may have none for ever: the next turn is for those behind it that were left out, if any. But what others took only just now
        # may be had elsewhere at once.
        if again:
            self.start = start
        elif any(note.tasks for note in notes.values()):
            self.start = {"start_job": wanted.next_job, "start_group": wanted.next_group}
        self.ask(self.cell.PassOver, api.PassOverRequest(passed_over=api.PassedOver(notes=notes.values()), **self.session))

    def claim(self, base: int, placements: list, notes: dict) -> bool:
        """Claims, and puts what is refused into the notes. Whether the next turn is for the same: some was refused for what came between, or was not decided."""
        self.number += 1
        transaction = commit.Transaction(
            number=self.number, base_revision=base, check=commit.FIT, placements=placements, **self.session)
        try:
            outcome = self.ask(self.cell.Commit, transaction)
        except grpc.RpcError as error:
            code, claims = code_of(error), sum(len(placement.tasks) for placement in placements)
            if code not in DROPPED + TOO_LARGE:
                raise
            if code in TOO_LARGE:
                self.claims_max = max(claims // 2, 1)
            self.claims_nothing(f"{code}: {error.details()}", placements, notes)
            # One claim can't be divided: others are to have their turn.
            return code in DROPPED or claims > 1
        self.told, self.claims_max = "", min(self.claims_max * 2, CLAIMS_MAX)
        print(f"transaction {outcome.number}: {outcome.granted} of {outcome.claims} claims granted", flush=True)
        for refusal in outcome.refusals:
            note, why = notes[refusal.job, refusal.group], commit.RefusalReason.Name(refusal.reason)
            note.tasks += 1
            # Of a gang, also what would have fitted is refused: as MATE, which is not the cause.
            if refusal.kind != commit.MATE:
                note.reason = f"refused: {why}"
            if refusal.kind in (commit.MISFIT, commit.PERMISSION) and refusal.reason not in OF_NO_MACHINE:
                self.avoided[refusal.job, refusal.group, refusal.machine] = why
            if refusal.kind == commit.QUOTA:
                self.over_quota[refusal.job, refusal.group] = (time.monotonic(), why)
        # It is wanted again in the next turn, which sees that.
        return any(refusal.kind in (commit.CONFLICT, commit.STALE) for refusal in outcome.refusals)

    def claims_nothing(self, why: str, placements: list, notes: dict):
        """Puts why nothing of them was claimed into their notes. It may be so for days: people are told once."""
        if why != self.told:
            print(f"claims nothing: {why}", flush=True)
        self.told = why
        for placement in placements:
            note = notes[placement.job, placement.group]
            note.tasks, note.reason = note.tasks + len(placement.tasks), why

    def open(self):
        """Opens a session in whichever cell answers."""
        before, self.metadata = self.metadata, self.metadata[:1]
        opened = self.ask(self.cell.Open, api.OpenRequest(scheduler=self.name))
        self.session, self.number = {"session": opened.session, "incarnation": opened.incarnation}, 0
        # Sessions are small numbers: another cell that answers here by then may have one of the same, and would take what is meant for this one. Servers
        # of before 30 November 2026 don't say which cell they are.
        if opened.cell_id:
            self.metadata.append(("plenum-cell", opened.cell_id.hex()))
        if self.metadata != before:
            # What was seen of another cell says nothing of the jobs of the same numbers here.
            self.avoided, self.over_quota, self.start, self.claims_max = {}, {}, {}, CLAIMS_MAX
        return opened

    def run(self):
        while True:
            opened = self.open()
            print(f"session {opened.session}", flush=True)
            # Once that one is over, a new one begins: what a transaction claimed whose answer never came, Wanted leaves out if it was granted.
            with contextlib.suppress(SessionOver):
                while True:
                    self.turn()
                    time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked_to_end, lambda *_: sys.exit())
    scheduler = Scheduler(sys.argv[1] if len(sys.argv) > 1 else "spread", os.environ.get("PLENUM_ADDR", "127.0.0.1:7070"))
    try:
        scheduler.run()
    finally:
        # One that nobody closes, as after a kill, is closed by the cell after ten minutes.
        with contextlib.suppress(grpc.RpcError):
            scheduler.cell.Close(api.CloseRequest(**scheduler.session), metadata=scheduler.metadata, timeout=1)
