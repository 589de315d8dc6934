"""What the scheduler does when a call fails, without a cell."""
import unittest
import grpc
import scheduler
from scheduler import Scheduler, SessionOver


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

    def test_who_is_told_when_to_ask_again_does(self):
        told = (("plenum-code", "QUEUE_FULL"), ("plenum-retry-after-micros", "1"))
        self.assertEqual(asks(Failed(grpc.StatusCode.RESOURCE_EXHAUSTED, told)), 2)

    def test_what_the_cell_refuses_is_not_asked_again(self):
        refused = [(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"), (grpc.StatusCode.INTERNAL, "INTERNAL")]
        for status, code in refused:
            with self.assertRaises(Failed):
                asks(Failed(status, (("plenum-code", code),)))
        with self.assertRaises(Failed):
            asks(Failed(grpc.StatusCode.UNIMPLEMENTED))
        with self.assertRaises(SessionOver):
            asks(Failed(grpc.StatusCode.NOT_FOUND, (("plenum-code", "NO_SUCH_SESSION"),)))


if __name__ == "__main__":
    scheduler.PAUSE_SECONDS = 0.001
    unittest.main()
