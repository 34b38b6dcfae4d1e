"""The thread that notes signals ends with the run."""

import os
import signal
import threading
import time

from derta.training.preemption import StopRequests


def test_a_forked_process_that_lives_on_does_not_hold_the_run_up():
    """Persistent loader workers outlive the block, with a copy of both ends of the pipe."""
    with StopRequests().noted():
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)  # it has not waited for the child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert "signals" not in {thread.name for thread in threading.enumerate()}


def test_handlers_are_as_before_afterwards():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    with StopRequests().noted() as requests:
        requests.saving_helps = True
        os.kill(os.getpid(), signal.SIGTERM)
        while not requests.number:
            time.sleep(0.01)
    assert requests.number == signal.SIGTERM
    assert {number: signal.getsignal(number) for number in before} == before
