"""A mirror of a cell in Python: which allocations there are, of which jobs, and on which machines, followed by `Cell.Watch`.

How a stream goes stands in `services.proto` at `SessionResponse`, and how a delta is folded in `log.proto` at `Delta`. This one keeps machines, jobs and
allocations; who needs tasks, quotas, holds or partitions folds them likewise.

What it does not know, as of a newer server: what it knows keeps its meaning between versions, so it goes on without the rest, and says once what that is.
A state without a name here stays the number that it is, and who reads the picture takes none such for a good one. Tables, parts of deltas, kinds of messages
and changes of jobs are left out. A row that is not there, or a revision that is not the next one, is another matter: the picture is wrong, and a new one
is fetched.
"""
import time
from dataclasses import dataclass, field
import grpc
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from plenum.v1 import log_pb2 as log, services_pb2 as api, types_pb2 as types
from plenum.v1.services_pb2_grpc import CellStub

PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.5, 30
# There is a heartbeat a second: above this age of the last one the picture is old.
OLD_SECONDS = 3
# Whose heartbeats have been old for so long, one after the other, is far behind its own buffers, or a clock stood still: a new stream has neither.
LATE_SECONDS_MAX = 30
# Clocks drift apart, so the least difference ever seen is not the least one for ever: it may rise by a 10,000th of the time.
DRIFT = 1e-4
OPTIONS = [
    # One page or delta of a large cell comes whole. gRPC alone takes 4 MiB.
    ("grpc.max_receive_message_length", 256 << 20),
    # A server that is gone without a word: after 10 s of silence it is asked, and has as long for the answer. Newer versions of the library wait for that
    # by the last of the three, which is a minute unless it is said.
    ("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 10_000), ("grpc.http2.ping_timeout_ms", 10_000),
]
# The slot is the lower half of an id, and the generation the upper one.
SLOT = 0xFFFFFFFF


class Misfit(Exception):
    """What came does not fit the picture."""


class Late(Exception):
    """What this stream tells is old."""


@dataclass
class Allocation:
    id: int
    job: int
    group: int  # Its position in the job.
    task: int
    machine: int  # Its slot.
    state: int = types.GRANTED
    ready: bool = False
    ports: dict = field(default_factory=dict)


class Picture:
    """The cell at a revision: machines by slot, jobs by id, allocations by slot."""

    def __init__(self, incarnation, unknown):
        self.incarnation, self.unknown, self.revision, self.time_micros = incarnation, unknown, 0, 0
        self.machines, self.jobs, self.allocations = {}, {}, {}

    def check(self, kind, value):
        if value not in kind.values():
            self.unknown(f"{kind.DESCRIPTOR.name} {value}")

    def put_machine(self, machine):
        self.check(types.MachineState, machine.state)
        self.machines[machine.id & SLOT] = machine
        if machine.state == types.GONE:
            del self.machines[machine.id & SLOT]

    def add_page(self, page):
        if page.table == log.TABLE_META:
            self.time_micros = page.meta.time_micros
        elif page.table == log.TABLE_MACHINES:
            for machine in page.machines.machines:
                self.put_machine(machine)
        elif page.table == log.TABLE_JOBS:
            self.jobs.update({row.put.id: row.put for row in page.jobs.jobs})
        elif page.table == log.TABLE_ALLOCATIONS:
            columns, first = page.allocations, page.number * 64
            rows = zip(columns.generations, columns.states, columns.ready, columns.jobs, columns.groups, columns.tasks, columns.machines, strict=True)
            for slot, (generation, state, ready, job, group, task, machine) in enumerate(rows, first):
                if state:  # Of a free row there is the generation alone.
                    self.check(types.AllocationState, state)
                    self.allocations[slot] = Allocation(generation << 32 | slot, job, group, task, machine, state, bool(ready))
            for extras in columns.extras:
                self.allocations[first + extras.claim].ports = {port.name: port.number for port in extras.ports}
        else:
            self.check(log.Table, page.table)

    def fold(self, delta):
        if delta.revision != self.revision + 1 or delta.time_micros < self.time_micros:
            raise Misfit(f"revision {delta.revision} after {self.revision}")
        self.revision, self.time_micros = delta.revision, delta.time_micros
        for part in UnknownFieldSet(delta):
            self.unknown(f"part {part.field_number} of a delta")
        for machine in delta.machines:
            self.put_machine(machine)
        for slot, state, ready in zip(delta.moves.slots, delta.moves.states, delta.moves.ready, strict=True):
            self.check(types.AllocationState, state)
            self.allocations[slot].state, self.allocations[slot].ready = state, bool(ready)
        for slot in delta.ends.slots:
            del self.allocations[slot]
        for change in delta.jobs:
            kind = change.WhichOneof("change")
            if kind == "put":
                self.jobs[change.put.id] = change.put
            elif kind == "state":
                self.jobs[change.state.id].state = change.state.state
            elif kind == "removed":
                del self.jobs[change.removed]
            elif kind is None:  # The others are of what is not kept here.
                self.unknown("change of a job")
        for grants in delta.grants:
            first, slots = len(self.allocations), grants.slots
            for machine, task, slot, generation in zip(grants.machines, grants.tasks, slots, grants.generations, strict=True):
                if machine not in self.machines or grants.job not in self.jobs:
                    raise Misfit(f"a grant of job {grants.job} on machine {machine}")
                self.allocations[slot] = Allocation(generation << 32 | slot, grants.job, grants.group, task, machine)
            if len(self.allocations) != first + len(slots):
                raise Misfit("a grant of a slot that is taken")
            for extras in grants.extras:
                self.allocations[slots[extras.claim]].ports = {port.name: port.number for port in extras.ports}


def clock_micros() -> int:
    # One that goes on while the machine sleeps, as `time.monotonic` does not: what lay in a buffer meanwhile is old.
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) // 1000


class Mirror:
    """`picture` may be old, and while `is_current` it is not. `seen` is what `Hello` says of what was seen of the cell: who keeps it between two runs is told
    when another cell answers, or an older copy of this one."""

    def __init__(self, address, principal):
        self.address, self.metadata = address.removeprefix("http://"), [("plenum-principal", principal)]
        self.seen = {"cell_id": b"", "seen_incarnation": 0, "seen_revision": 0, "seen_term": 0}
        self.picture = self.filling = self.beat = None
        # The least difference of both clocks, and what the server's told last. None: nothing was heard of it.
        self.offset, self.beat_micros = None, 0
        # When the stream was asked for, when its last heartbeat was made at the earliest, and since when each was old as it was read.
        self.asked_at, self.made_at, self.late_since = clock_micros(), None, None
        self.said, self.told = "", set()

    def log_micros(self) -> int:
        """The cell's log time now, once there was a heartbeat."""
        return clock_micros() - self.offset

    def is_current(self) -> bool:
        """Whether the picture has come to what the last heartbeat of this stream said, and that is no old one. Those that a reader finds in its own buffers
        after it stood still look like any other, but for their time."""
        if self.beat is None or self.picture is None or self.picture.revision < self.beat.revision:
            return False
        return clock_micros() - self.made_at <= OLD_SECONDS * 1e6

    def follow(self):
        """Gives the picture after each message with which it is current, so at least once a second then. Goes on by itself, and never ends."""
        while True:
            pause = PAUSE_SECONDS
            try:
                with grpc.insecure_channel(self.address, OPTIONS) as channel:
                    for message in CellStub(channel).Watch(self.hello(), metadata=self.metadata):
                        self.take(message)
                        if self.is_current():
                            yield self.picture
                self.say("the stream has ended")
            except grpc.RpcError as error:
                trailing = dict(error.trailing_metadata() or ())
                code = trailing.get("plenum-code", error.code().name)
                if code == "OTHER_INCARNATION":
                    self.picture = None
                # With OTHER_CELL and NO_SUCH_REVISION, too, all that was seen is kept: people have to look, and what they put right is noticed.
                pause = min(max(int(trailing.get("plenum-retry-after-micros", 0)) / 1e6, pause), PAUSE_SECONDS_MAX)
                self.say(f"{code}: {error.details()}")
            except Late as late:
                self.say(str(late))
            except (Misfit, LookupError, ValueError, DecodeError) as misfit:
                self.picture = None
                self.say(f"begins anew, as what came does not fit: {misfit!r}")
            self.beat = None
            time.sleep(pause)

    def hello(self):
        # A picture of an earlier incarnation can't be gone on with.
        self.asked_at = clock_micros()
        goes_on = self.picture is not None and self.picture.incarnation == self.seen["seen_incarnation"]
        own = {"revision": self.picture.revision, "incarnation": self.picture.incarnation} if goes_on else {}
        # With ALLOCATIONS come MACHINES and JOBS.
        return api.Hello(sections=[types.ALLOCATIONS], **own, **self.seen)

    def take(self, message):
        kind = message.WhichOneof("tell")
        if kind == "welcome":
            self.welcome(message.welcome)
        elif kind == "snapshot" and self.filling is None or kind == "deltas" and (self.filling is not None or self.picture is None):
            raise Misfit(f"{kind} out of turn")
        elif kind == "snapshot":
            for page in message.snapshot.pages:
                self.filling.add_page(log.Page.FromString(page))
            if message.snapshot.last:
                self.picture, self.filling = self.filling, None
                self.picture.revision = message.snapshot.revision
                self.see(self.picture.revision)
        elif kind == "deltas":
            for delta in message.deltas.deltas:
                self.picture.fold(log.Delta.FromString(delta))
            self.see(self.picture.revision)
        elif kind == "heartbeat":
            self.heartbeat(message.heartbeat)
        elif kind is None:  # Outcomes and errors are for sessions.
            self.unknown("kind of message")

    def welcome(self, welcome):
        life, seen = (welcome.incarnation, welcome.term), self.seen
        revision = max(welcome.revision, seen["seen_revision"]) if welcome.incarnation == seen["seen_incarnation"] else welcome.revision
        if life != (seen["seen_incarnation"], seen["seen_term"]):
            self.offset = None  # Another start of a server has another clock.
        self.seen = {"cell_id": welcome.cell_id, "seen_incarnation": life[0], "seen_revision": revision, "seen_term": life[1]}
        # It may be a further one of the same stream: what that has said before is over.
        self.beat, self.filling = None, Picture(welcome.incarnation, self.unknown) if welcome.snapshot else None
        if not welcome.snapshot:
            # Before its first revision a cell is empty, and needs no pages to say so.
            self.picture = self.picture or Picture(welcome.incarnation, self.unknown)
            if (self.picture.incarnation, self.picture.revision) != (welcome.incarnation, welcome.revision):
                raise Misfit(f"it would go on at revision {welcome.revision}")
        self.late_since = None
        self.say("follows with a snapshot" if welcome.snapshot else f"goes on after revision {welcome.revision}")

    def heartbeat(self, beat):
        now, self.beat = clock_micros(), beat
        # The least difference of both clocks is that of the heartbeat that was on its way for the shortest time. One server's never leaps back.
        since, passed = now - beat.now_micros, max(beat.now_micros - self.beat_micros, 0)
        known = None if self.offset is None else self.offset + int(DRIFT * passed)
        self.offset, self.beat_micros = since if known is None else min(known, since), beat.now_micros
        if now - self.asked_at <= OLD_SECONDS * 1e6 < since - self.offset:
            # What a stream tells is no older than its call, whatever the clocks say.
            self.offset = since
        # Read much sooner after the earlier ones than it was made, it is one of many that were waiting to be read, and so may be the next one. Of the first
        # one nobody knows.
        is_paced = known is not None and known - since <= passed // 2
        self.made_at = max(self.asked_at, beat.now_micros + self.offset) if is_paced else self.asked_at
        self.see(beat.revision)
        if now - self.made_at <= OLD_SECONDS * 1e6:
            self.late_since = None
        elif self.late_since is None:
            self.late_since = now
        elif now - self.late_since > LATE_SECONDS_MAX * 1e6:
            raise Late(f"leaves a stream that is late by {(now - self.made_at) / 1e6:.0f} s")

    def see(self, revision):
        self.seen["seen_revision"] = max(self.seen["seen_revision"], revision)

    def unknown(self, what):
        if what not in self.told:
            self.told.add(what)
            print(f"goes on without what it does not know, as of a newer server: {what}", flush=True)

    def say(self, what):
        if what != self.said:
            self.said = what
            print(what, flush=True)
