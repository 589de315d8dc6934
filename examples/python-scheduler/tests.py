"""What the scheduler does when a call fails or a claim is refused, without a cell."""
import contextlib, io, unittest, unittest.mock
import grpc
import scheduler
from plenum.v1 import commit_pb2 as commit, services_pb2 as api
from scheduler import Paused, Scheduler, SessionOver


class Failed(grpc.RpcError):
    def __init__(self, status, trailing=()):
        self.status, self.trailing = status, trailing

    def code(self):
        return self.status

    def details(self):
        return "a test"

    def trailing_metadata(self):
        return self.trailing


def asks(*failures) -> int:
    """How often is asked where these come before an answer."""
    left, asked = list(failures), []

    def call(request, **_):
        asked.append(request)
        if left:
            raise left.pop(0)
        return "an answer"

    assert Scheduler("spread", "127.0.0.1:1").ask(call, "a request") == "an answer"
    return len(asked)


class Asking(unittest.TestCase):
    def test_who_hears_no_answer_asks_again_whatever_grpc_calls_it(self):
        for word in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"):
            self.assertEqual(asks(Failed(grpc.StatusCode[word])), 2, word)
        self.assertEqual(asks(Failed(grpc.StatusCode.UNAVAILABLE, None)), 2, "without metadata")

    def test_what_grpc_says_of_faults_too_is_asked_again_so_often_in_a_row(self):
        fault, away = Failed(grpc.StatusCode.INTERNAL), Failed(grpc.StatusCode.UNAVAILABLE)
        most = [fault] * scheduler.FAULTS_MAX
        self.assertEqual(asks(*most, away, *most), 2 * len(most) + 2)
        with self.assertRaises(Failed):
            asks(*most, Failed(grpc.StatusCode.UNKNOWN))
        self.assertEqual(asks(*[away] * 50), 51)

    def test_who_is_told_when_to_ask_again_does(self):
        told = (("plenum-code", "QUEUE_FULL"), ("plenum-retry-after-micros", "1"))
        self.assertEqual(asks(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, told)), 2)

    def test_who_is_told_to_ask_again_much_later_asks_again_sooner(self):
        told = (("plenum-code", "LIMIT_REACHED"), ("plenum-retry-after-micros", "630000000"))
        with unittest.mock.patch.object(scheduler.time, "sleep") as sleep:
            self.assertEqual(asks(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, told)), 2)
        sleep.assert_called_once_with(scheduler.PAUSE_SECONDS_MAX)

    def test_what_the_cell_refuses_is_not_asked_again(self):
        refused = [(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"), (grpc.StatusCode.INTERNAL, "INTERNAL")]
        for status, code in refused:
            with self.assertRaises(Failed):
                asks(Failed(status, (("plenum-code", code),)))
        with self.assertRaises(Failed):
            asks(Failed(grpc.StatusCode.UNIMPLEMENTED))
        with self.assertRaises(SessionOver):
            asks(Failed(grpc.StatusCode.NOT_FOUND, (("plenum-code", "NO_SUCH_SESSION"),)))

    # What was meant for one cell was executed by another one that had the same session.
    def test_each_call_says_which_cell_it_is_meant_for_and_a_session_of_another_one_is_opened_anew(self):
        asking, said = Scheduler("spread", "127.0.0.1:1"), []

        def opens(_, metadata, **__):
            said.append(dict(metadata).get("plenum-cell"))
            return api.OpenResponse(session=1, incarnation=1, cell_id=b"\x0b\xad")

        asking.cell.Open = opens
        asking.open()
        self.assertEqual(dict(asking.metadata), {"plenum-principal": "scheduler/spread", "plenum-cell": "0bad"})
        asking.open()
        self.assertEqual(said, [None, None], "by which any cell is meant")
        with self.assertRaises(SessionOver):
            asks(Failed(grpc.StatusCode.FAILED_PRECONDITION, (("plenum-code", "OTHER_CELL"),)))


def turned(answer, tasks=1, least=0, turns=1) -> Scheduler:
    """One that had so many turns, from group 3 of job 8 on: it claimed tasks of it, was answered so each time, and left out job 9."""
    asking = Scheduler("spread", "127.0.0.1:1")
    asking.start, asking.commits, asking.notes = {"start_job": 8, "start_group": 3}, [], {}
    wanted = api.WantedResponse(revision=5, next_job=9, next_group=1)
    wanted.groups.add(job=8, job_version=1, group=3, tasks=range(tasks), least=least)
    machines = api.ListMachinesResponse(revision=5)
    machines.machines.add(id=1 << 32 | 7)
    answers = {asking.cell.Wanted: wanted, asking.inspect.ListMachines: machines, asking.cell.Commit: answer}

    def ask(call, request):
        told = answers.get(call)
        if call == asking.cell.Commit:
            asking.commits.append([len(placement.tasks) for placement in request.placements])
        if call == asking.cell.PassOver:
            asking.notes = {(note.job, note.group): (note.tasks, note.reason) for note in request.passed_over.notes}
        if isinstance(told, Exception):
            raise told
        return told

    asking.ask, said = ask, io.StringIO()
    with contextlib.redirect_stdout(said):
        for _ in range(turns):
            asking.turn()
    asking.lines = said.getvalue().splitlines()
    return asking


def refused_with(code: str) -> Failed:
    return Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, (("plenum-code", code),))


def outcome(*kinds) -> commit.Outcome:
    return commit.Outcome(refusals=[commit.Refusal(kind=kind, job=8, group=3, machine=7) for kind in kinds])


class Turning(unittest.TestCase):
    def test_what_lost_a_race_has_the_next_turn_and_what_has_no_room_leaves_it_to_others(self):
        own, others = {"start_job": 8, "start_group": 3}, {"start_job": 9, "start_group": 1}
        starts = {kind: turned(outcome(kind)).start for kind in (commit.CONFLICT, commit.STALE, commit.MISFIT, commit.QUOTA)}
        self.assertEqual(starts, {commit.CONFLICT: own, commit.STALE: own, commit.MISFIT: others, commit.QUOTA: others})
        self.assertEqual(turned(Paused("until it is resumed")).start, own)
        self.assertEqual(turned(outcome()).start, {})

    # It ended with a traceback, and whoever started it anew saw it end again: nothing of any job was placed.
    def test_what_is_too_large_for_the_cell_is_divided_and_what_was_not_decided_goes_under_another_number(self):
        own, others = {"start_job": 8, "start_group": 3}, {"start_job": 9, "start_group": 1}
        for code in scheduler.TOO_LARGE:
            divided = turned(refused_with(code), tasks=10, turns=4)
            self.assertEqual(divided.commits, [[10], [5], [2], [1]])
            self.assertEqual((divided.number, divided.start), (4, others), "one claim can't be divided")
            self.assertEqual(divided.notes, {(8, 3): (10, f"{code}: a test")})
            self.assertEqual(turned(refused_with(code), tasks=10).start, own)
        for code in scheduler.DROPPED:
            again = turned(refused_with(code), tasks=10, turns=2)
            self.assertEqual((again.commits, again.number, again.start), ([[10], [10]], 2, own))
        with self.assertRaises(Failed):
            turned(refused_with("INVALID_REQUEST"))
        with self.assertRaises(Failed):
            turned(Failed(grpc.StatusCode.INTERNAL))

    def test_a_gang_goes_whole_or_waits_and_says_why(self):
        gang = turned(refused_with("LIMIT_REACHED"), tasks=10, least=8, turns=3)
        self.assertEqual((gang.commits, gang.claims_max), ([[10]], 5))
        self.assertEqual(gang.notes, {(8, 3): (10, "8 start at once or none, and the cell takes at most 5 claims at once")})
        gang.avoided_since -= scheduler.AVOID_SECONDS
        with contextlib.redirect_stdout(io.StringIO()):
            gang.turn()
        self.assertEqual(gang.commits, [[10], [10]])

    def test_once_the_cell_takes_some_it_is_asked_for_more(self):
        some = turned(outcome(), tasks=10)
        some.claims_max = 3
        with contextlib.redirect_stdout(io.StringIO()):
            some.turn()
        self.assertEqual((some.commits, some.claims_max), ([[10], [3]], 6))
        self.assertEqual(some.notes, {(8, 3): (7, "its turn is in a later transaction")})

    # The whole group was claimed and refused three times a second, each time a line of the log.
    def test_what_is_over_its_quota_waits_for_some_seconds(self):
        answer = outcome(*[commit.QUOTA] * 4)
        for refusal in answer.refusals:
            refusal.reason = commit.QUOTA_EXCEEDED
        over = turned(answer, tasks=4, turns=3)
        self.assertEqual((over.commits, over.notes), ([[4]], {(8, 3): (4, "refused: QUOTA_EXCEEDED")}))
        over.over_quota = {key: (since - scheduler.QUOTA_PAUSE_SECONDS, why) for key, (since, why) in over.over_quota.items()}
        with contextlib.redirect_stdout(io.StringIO()):
            over.turn()
        self.assertEqual(over.commits, [[4], [4]])

    # For a minute nothing of the group was claimed on any machine where its claims had come a moment before the end of a backoff.
    def test_a_refusal_keeps_a_group_from_the_machine_only_where_that_is_the_reason(self):
        def commits(kind, reason) -> list:
            answer = outcome(kind)
            answer.refusals[0].reason = reason
            return turned(answer, turns=2).commits

        for kind, reason in ((commit.MISFIT, commit.NOT_WANTED), (commit.PERMISSION, commit.OTHER_SCHEDULER)):
            self.assertEqual(commits(kind, reason), [[1], [1]], commit.RefusalReason.Name(reason))
        for kind, reason in ((commit.MISFIT, commit.NO_ROOM), (commit.PERMISSION, commit.NOT_PERMITTED)):
            self.assertEqual(commits(kind, reason), [[1]], commit.RefusalReason.Name(reason))

    # A pause had a line three times a second.
    def test_what_lasts_is_told_once(self):
        self.assertEqual(turned(Paused("until it is resumed"), turns=3).lines, ["claims nothing: until it is resumed"])
        with contextlib.redirect_stdout(io.StringIO()) as said:
            asks(*[Failed(grpc.StatusCode.UNAVAILABLE)] * 5)
        self.assertEqual(said.getvalue(), "asks again after UNAVAILABLE: a test\n")


if __name__ == "__main__":
    scheduler.PAUSE_SECONDS = 0.001
    unittest.main()
