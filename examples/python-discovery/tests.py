"""What the mirror makes of what comes, and what the file lists, without a cell."""
import contextlib, io, json, pathlib, tempfile, types as python, unittest, unittest.mock
import grpc
import discovery, mirror
from plenum.v1 import log_pb2 as log, services_pb2 as api, types_pb2 as types

SECOND = 1_000_000


def message(**tell):
    return api.SessionResponse(**tell)


def welcome(revision=0, snapshot=False, incarnation=1, term=1):
    return message(welcome=api.Welcome(cell_id=b"cell", incarnation=incarnation, term=term, revision=revision, snapshot=snapshot))


def deltas(*folded):
    return message(deltas=api.Deltas(deltas=[delta.SerializeToString() for delta in folded]))


def heartbeat(revision, seconds):
    return message(heartbeat=api.Heartbeat(revision=revision, now_micros=seconds * SECOND))


def machine(state=types.READY, epoch=1, since_micros=0):
    return log.MachineChange(id=1 << 32, name="m0", state=state, epoch=epoch, epoch_began=1, since_micros=since_micros)


def cell_of_one(epoch=1):
    """A delta with a machine, a service and an allocation of it, and one with which that runs."""
    put = log.JobPut(id=1 << 32 | 4, shape=types.JobShape(namespace="default", name="web", kind=types.FOREVER, groups=[types.GroupShape(name="main")]))
    extras = log.GrantExtras(claim=0, ports=[types.Port(name="http", number=20000)])
    grants = log.Grants(job=put.id, machines=[0], tasks=[0], slots=[7], generations=[2], extras=[extras])
    return log.Delta(revision=1, machines=[machine(epoch=epoch)], jobs=[log.JobChange(put=put)], grants=[grants]), moved(2, types.RUNNING)


def moved(revision, state, ready=1):
    return log.Delta(revision=revision, moves=log.Moves(slots=[7], states=[state], ready=[ready]))


class Story(unittest.TestCase):
    def setUp(self):
        self.seconds, self.said, self.since = 1000.0, io.StringIO(), {}
        self.enterContext(contextlib.redirect_stdout(self.said))
        self.enterContext(unittest.mock.patch.object(mirror, "clock_micros", lambda: int(self.seconds * SECOND)))
        self.mirror = mirror.Mirror("127.0.0.1:1", "user/test")

    def takes(self, *messages):
        for one in messages:
            self.mirror.take(one)

    def listed(self, log_seconds=0, before=None):
        rows = discovery.services(self.mirror.picture, log_seconds * SECOND, before or {}, self.since)
        return {name: [row["allocation"] for row in rows[name]] for name in rows}


class Following(Story):
    def test_it_is_current_once_it_has_come_to_what_a_heartbeat_says(self):
        self.takes(welcome(), deltas(cell_of_one()[0]))
        self.assertFalse(self.mirror.is_current())
        self.takes(heartbeat(2, 1))
        self.assertFalse(self.mirror.is_current())
        self.assertEqual((self.mirror.hello().revision, self.mirror.hello().seen_revision), (1, 2))
        self.takes(deltas(cell_of_one()[1]))
        self.assertTrue(self.mirror.is_current())
        self.seconds += mirror.OLD_SECONDS + 0.1
        self.assertFalse(self.mirror.is_current())

    # Who stood still for most of a minute read its own buffers, in which each heartbeat agreed with the deltas before it, and published what was long dead.
    def test_heartbeats_that_lay_in_its_own_buffers_are_old(self):
        self.takes(welcome(), deltas(*cell_of_one()), heartbeat(2, 1))
        self.seconds += 20
        for second in range(2, 18):
            self.takes(heartbeat(2, second))
            self.assertFalse(self.mirror.is_current(), second)
        self.takes(heartbeat(2, 21))
        self.assertTrue(self.mirror.is_current())

    # Its first heartbeat counted as one that came at once, and each of those that waited behind it as a still quicker one.
    def test_who_stood_still_before_its_first_heartbeat_trusts_none_that_comes_too_soon(self):
        self.takes(welcome(), deltas(*cell_of_one()))
        self.seconds += 60
        for second in range(1, 61):
            self.takes(heartbeat(2, second))
            self.assertFalse(self.mirror.is_current(), second)
        self.seconds += 1
        self.takes(heartbeat(2, 61))
        self.assertTrue(self.mirror.is_current())

    def test_who_stays_behind_its_buffers_leaves_them_and_what_comes_next_is_no_older_than_its_call(self):
        self.takes(welcome(), heartbeat(0, 1))
        self.seconds += mirror.LATE_SECONDS_MAX + 1
        self.takes(heartbeat(0, 2))
        self.seconds += mirror.LATE_SECONDS_MAX + 1
        with self.assertRaises(mirror.Late):
            self.takes(heartbeat(0, 3))
        self.mirror.hello()
        self.takes(welcome(), heartbeat(0, 4))
        self.assertTrue(self.mirror.is_current())

    def test_the_clock_of_another_server_is_measured_anew_and_that_of_the_same_one_is_not(self):
        self.takes(welcome(), heartbeat(0, 100), welcome())
        self.seconds += 20
        self.takes(heartbeat(0, 101))
        self.assertFalse(self.mirror.is_current())
        self.mirror.hello()
        self.takes(welcome(term=2), heartbeat(0, 50))
        self.assertTrue(self.mirror.is_current())

    def test_two_clocks_may_drift_apart(self):
        self.takes(welcome())
        for minute in range(1500):
            self.takes(heartbeat(0, 60 * minute))
            self.assertTrue(self.mirror.is_current(), minute)
            self.seconds += 60 * (1 + mirror.DRIFT / 2)

    def test_a_snapshot_takes_the_place_of_the_picture_when_it_is_whole(self):
        self.takes(welcome(), deltas(*cell_of_one()), heartbeat(2, 1), welcome(revision=9, snapshot=True))
        self.assertFalse(self.mirror.is_current())
        put = self.mirror.picture.jobs[1 << 32 | 4]
        columns = log.AllocationPage(extras=[log.GrantExtras(claim=1, ports=[types.Port(name="http", number=20001)])])
        columns.generations[:], columns.states[:], columns.ready[:], columns.jobs[:] = [5, 3], [0, types.RUNNING], [0, 1], [0, put.id]
        columns.groups[:], columns.tasks[:], columns.machines[:] = [0, 0], [0, 0], [0, 0]
        pages = [log.Page(table=log.TABLE_MACHINES, machines=log.MachinePage(machines=[machine()])),
                 log.Page(table=log.TABLE_JOBS, jobs=log.JobPage(jobs=[log.JobRow(put=put)])),
                 log.Page(table=log.TABLE_ALLOCATIONS, number=1, allocations=columns)]
        for position, page in enumerate(pages):
            self.assertEqual(self.listed(), {"default/web/main": ["alloc-7-2"]})
            self.takes(message(snapshot=api.SnapshotPart(revision=10, pages=[page.SerializeToString()], last=position == 2)))
        self.assertEqual(self.listed(), {"default/web/main": ["alloc-65-3"]})
        self.assertEqual((self.mirror.hello().revision, self.mirror.hello().seen_revision), (10, 10))

    def test_what_does_not_fit_is_told_apart_from_what_does(self):
        first, second = cell_of_one()
        taken = log.Delta(revision=3, grants=first.grants)
        for misfit in (moved(4, types.LOST), log.Delta(revision=3, ends=log.Ends(slots=[8])), taken, log.Delta(revision=3, time_micros=-1)):
            self.mirror.picture = None
            self.takes(welcome(), deltas(first, second))
            with self.assertRaises((mirror.Misfit, LookupError)):
                self.takes(deltas(misfit))

    def test_what_it_does_not_know_is_left_out_and_told_once(self):
        part = log.Delta.FromString(log.Delta(revision=3).SerializeToString() + b"\xf2\x01\x03abc")
        change = log.Delta(revision=4, jobs=[log.JobChange()])
        self.takes(welcome(), deltas(*cell_of_one(), part, change, moved(5, 12), moved(6, 12)), message())
        self.assertEqual(self.listed(), {})
        self.takes(deltas(moved(7, types.RUNNING)))
        self.assertEqual(self.listed(), {"default/web/main": ["alloc-7-2"]})
        self.takes(deltas(log.Delta(revision=8, machines=[machine(state=9)])))
        self.assertEqual(self.listed(), {})
        self.mirror.picture.add_page(log.Page(table=77))
        told = [line.rsplit(": ", 1)[1] for line in self.said.getvalue().splitlines() if "does not know" in line]
        self.assertEqual(told, ["part 30 of a delta", "change of a job", "AllocationState 12", "kind of message", "MachineState 9", "Table 77"])


class Refused(grpc.RpcError):
    def __init__(self, code):
        super().__init__()
        self.trailing_metadata, self.details, self.code = lambda: (("plenum-code", code),), lambda: "a test", lambda: grpc.StatusCode.FAILED_PRECONDITION


class Coming(Story):
    def hellos(self, *streams):
        """What it greets each stream with, where these are what comes, and then one that nobody hears of."""
        asked, left = [], list(streams)

        def watch(hello, **_):
            asked.append((hello.revision, hello.incarnation, hello.seen_revision))
            if not left:
                raise KeyboardInterrupt
            if isinstance(left[0], Exception):
                raise left.pop(0)
            return left.pop(0)

        called = python.SimpleNamespace(Watch=watch)
        with unittest.mock.patch.object(mirror, "CellStub", lambda _: called), unittest.mock.patch.object(mirror.time, "sleep"):
            with self.assertRaises(KeyboardInterrupt):
                list(self.mirror.follow())
        return asked

    def test_it_goes_on_after_a_cut_and_begins_anew_where_something_does_not_fit(self):
        one = [welcome(), deltas(*cell_of_one())]
        self.assertEqual(self.hellos(one, [welcome(2), deltas(moved(9, types.LOST))]), [(0, 0, 0), (2, 1, 2), (0, 0, 2)])

    def test_where_another_cell_or_an_older_copy_answers_all_is_kept(self):
        one = [welcome(), deltas(*cell_of_one())]
        self.assertEqual(self.hellos(one, Refused("OTHER_CELL"), Refused("NO_SUCH_REVISION")), [(0, 0, 0)] + [(2, 1, 2)] * 3)

    def test_a_picture_of_an_earlier_incarnation_is_not_gone_on_with(self):
        one = [welcome(), deltas(*cell_of_one())]
        self.assertEqual(self.hellos(one, [welcome(1, snapshot=True, incarnation=2)])[2], (0, 0, 1))


class Listing(Story):
    def test_what_is_not_ready_or_leaves_or_ended_is_not_listed(self):
        first, second = cell_of_one()
        self.takes(welcome(), deltas(first))
        self.assertEqual(self.listed(), {})
        self.takes(deltas(second))
        self.assertEqual(self.listed(), {"default/web/main": ["alloc-7-2"]})
        self.takes(deltas(moved(3, types.RUNNING, ready=0)))
        self.assertEqual(self.listed(), {})
        self.takes(deltas(moved(4, types.RUNNING), moved(5, types.STOPPING)))
        self.assertEqual(self.listed(), {})
        self.takes(deltas(log.Delta(revision=6, ends=log.Ends(slots=[7], states=[types.STOPPED], exit_codes=[0]))))
        self.assertEqual(self.listed(), {})

    def test_what_has_no_ports_or_will_be_done_is_no_service(self):
        self.takes(welcome(), deltas(*cell_of_one()))
        allocation, shape = self.mirror.picture.allocations[7], self.mirror.picture.jobs[1 << 32 | 4].shape
        with unittest.mock.patch.object(allocation, "ports", {}):
            self.assertEqual(self.listed(), {})
        shape.kind = types.TO_COMPLETION
        self.assertEqual(self.listed(), {})

    def test_a_machine_that_is_unreachable_is_listed_for_a_while(self):
        away = log.Delta(revision=3, machines=[machine(types.UNREACHABLE, since_micros=100 * SECOND)])
        self.takes(welcome(), deltas(*cell_of_one(), away))
        self.assertEqual(self.listed(100 + discovery.UNREACHABLE_SECONDS - 1), {"default/web/main": ["alloc-7-2"]})
        self.assertEqual(self.listed(100 + discovery.UNREACHABLE_SECONDS), {})

    # After a restore, what a backup called ready was listed at once, though it had been replaced since; and then with the registration of its agent, which
    # said a moment later that it had no trace of it.
    def test_after_a_restore_what_was_published_stays_until_the_agent_was_heard_of_all(self):
        before = {"default/web/main": [{"allocation": "alloc-8-1", "machine": "m0", "task": 0}]}
        self.takes(welcome(incarnation=2), deltas(*cell_of_one(epoch=3)))
        self.assertEqual(self.listed(100, before), {"default/web/main": ["alloc-8-1"]})
        self.takes(deltas(log.Delta(revision=3, machines=[machine(epoch=(1 << 26) + 1)])))
        for log_seconds, listed in ((200, "alloc-8-1"), (199 + discovery.SETTLING_SECONDS, "alloc-8-1"), (200 + discovery.SETTLING_SECONDS, "alloc-7-2")):
            self.assertEqual(self.listed(log_seconds, before), {"default/web/main": [listed]})

    # In a cell that was restored long ago, who was started anew published for three seconds, as the present, what it had written before it was away.
    def test_after_a_start_anew_what_was_heard_before_is_believed_at_once(self):
        before = {"default/web/main": [{"allocation": "alloc-8-1", "machine": "m0", "task": 0}]}
        first, second = cell_of_one(epoch=(1 << 26) + 1)
        self.takes(welcome(incarnation=2), deltas(first, second))
        rows = discovery.services(self.mirror.picture, 100 * SECOND, before, self.since, 1)
        self.assertEqual([row["allocation"] for row in rows["default/web/main"]], ["alloc-7-2"])

    def test_the_file_stays_until_the_picture_is_current_and_knows_its_cell(self):
        path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / "services.json"
        for told in ([deltas(*cell_of_one()), heartbeat(2, 1)], [], [heartbeat(0, 1)]):
            with unittest.mock.patch.object(discovery.Mirror, "follow", lambda following: self.follows(following, told)):
                discovery.run("127.0.0.1:1", path)
            written = json.loads(path.read_text())
            self.assertEqual(bytes.fromhex(written["cell"]), b"cell")
            self.assertEqual(bool(written["services"]), told != [heartbeat(0, 1)], told)
        self.assertEqual(self.greeted, [(b"", 0, 0), (b"cell", 1, 2), (b"cell", 1, 2)])

    greeted = []

    def follows(self, following, told):
        hello = following.hello()
        self.greeted.append((hello.cell_id, hello.seen_incarnation, hello.seen_revision))
        for one in [welcome(), *told]:
            following.take(one)
            if following.is_current():
                yield following.picture


if __name__ == "__main__":
    unittest.main()
