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


def next_start(answer) -> dict:
    """Where the turn begins that follows on one from group 3 of job 8 on: which claimed one task of it, was answered so, and left out job 9."""
    asking = Scheduler("spread", "127.0.0.1:1")
    asking.start = {"start_job": 8, "start_group": 3}
    wanted = api.WantedResponse(revision=5, next_job=9, next_group=1)
    wanted.groups.add(job=8, job_version=1, group=3, tasks=[0])
    machines = api.ListMachinesResponse(revision=5)
    machines.machines.add(id=1 << 32 | 7)
    answers = {asking.cell.Wanted: wanted, asking.inspect.ListMachines: machines, asking.cell.Commit: answer}

    def ask(call, _):
        told = answers.get(call)
        if isinstance(told, Exception):
            raise told
        return told

    asking.ask = ask
    with contextlib.redirect_stdout(io.StringIO()):
        asking.turn()
    return asking.start


class Turning(unittest.TestCase):
    def test_what_lost_a_race_has_the_next_turn_and_what_has_no_room_leaves_it_to_others(self):
        def refused(kind):
            return commit.Outcome(refusals=[commit.Refusal(kind=kind, job=8, group=3, machine=7)])

        own, others = {"start_job": 8, "start_group": 3}, {"start_job": 9, "start_group": 1}
        self.assertEqual([next_start(refused(kind)) for kind in (commit.CONFLICT, commit.STALE)], [own, own])
        self.assertEqual([next_start(refused(kind)) for kind in (commit.MISFIT, commit.QUOTA)], [others, others])
        self.assertEqual(next_start(Paused("until it is resumed")), own)
        self.assertEqual(next_start(commit.Outcome()), {})


if __name__ == "__main__":
    scheduler.PAUSE_SECONDS = 0.001
    unittest.main()
