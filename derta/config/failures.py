"""How a command ends. With several ranks the first error stands first: the others fail because of it, later and louder.

rank that failed     traceback at once; the same in torchrun's error file, which torchrun prints as root cause
rank that lost it    one line, after a moment in which the launcher usually ends it
"""

import contextlib
import os
import re
import select
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from typing import NoReturn

from derta.config.shipped import as_typed
from derta.errors import InputError, RankLost, RunStopped, first_line

_SECONDS_FOR_THE_FIRST = 5
_PIPE_CLOSED = 141  # what a shell reports of a process that SIGPIPE has ended
# What gloo, NCCL and the store say when a peer is gone; none of them is ever the cause.
_PEER_GONE = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|Connection refused|Socket Timeout|NCCL|ncclRemoteError|gloo/"
    r"|DistBackendError|DistNetworkError|DistStoreError|Timed out waiting",
)
_LOADER = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\)[^\n]*")


def world_size() -> int:
    """Ranks of this job, as torchrun and accelerate announce them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """An InputError becomes one message and exit code 2, a RunStopped one and its own code; with several ranks the
    error of the rank that failed first comes before what its end causes in the others. A reader of the output that
    has gone (`| head`) is no error."""
    try:
        yield
        sys.stdout.flush()
    except InputError as error:
        tell_launcher(error)
        fail(str(error))
    except RunStopped as stop:
        tell_launcher(stop)
        if is_main_rank():
            print(str(stop), file=sys.stderr, flush=True)
        sys.exit(stop.exit_code)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(_PIPE_CLOSED)
        if world_size() == 1 and not _LOADER.search(str(error)):
            raise
        end_rank(error)


def fail(message: str) -> NoReturn:
    """Say it once, whatever the number of ranks, and stop."""
    message = as_typed(message)
    if is_main_rank():
        print(f"error: {message}", file=sys.stderr, flush=True)
    else:
        # Where rank 0 has failed too, the launcher ends this process before it repeats the message.
        time.sleep(_SECONDS_FOR_THE_FIRST)
        print(f"error on rank {os.environ['RANK']}: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _nobody_reads() -> bool:
    """Whether stdout is a pipe without reader; what is still to be written to it is dropped."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)
    if gone := bool(stdout.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return gone


def end_rank(error: Exception) -> NoReturn:
    """Report `error` as this rank's part allows, and leave."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    rank = os.environ.get("RANK", "0")
    if _PEER_GONE.search(f"{type(error).__name__}: {error}"):
        time.sleep(_SECONDS_FOR_THE_FIRST)
        said = first_line(error)[:160]
        print(f"rank {rank}: another rank is gone ({said}); its own error stands above", file=sys.stderr, flush=True)
        leave(RankLost.exit_code)
    tell_launcher(error)
    if loader := _LOADER.search(str(error)):
        message = (
            f"a loader process died: {loader[0].rstrip('.')}. Out of memory is the usual reason: lower "
            "trainer.num_workers (0 loads in the rank itself), or give the job more memory"
        )
    else:
        message = "".join(traceback.format_exception(error)).rstrip()
    print(f"error on rank {rank}: {message}", file=sys.stderr, flush=True)
    leave(1)


def leave(code: int) -> NoReturn:
    """Without the clean-up at exit, which would wait for ranks that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def tell_launcher(error: BaseException) -> None:
    """Put the error where torchrun looks for the root cause (TORCHELASTIC_ERROR_FILE), if it is there."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
