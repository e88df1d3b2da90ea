"""What is said of a worker that has died."""

from __future__ import annotations

import pytest

from bainmarie.workers.death import death
from bainmarie.workers.states import State
from bainmarie_protocol import Exited

LOG = "loading\n  warnings.warn(\n"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Exited(code=7), "(exit code 7): warnings.warn("),
        (Exited(signal=6), "(SIGABRT): warnings.warn("),
        (Exited(signal=9), "(SIGKILL)"),
        (Exited(signal=11), "(SIGSEGV)"),
        (Exited(), "(its process is gone): warnings.warn("),
    ],
)
def test_the_last_line_of_the_log_is_a_cause_only_where_the_worker_ended_by_itself(event: Exited, said: str) -> None:
    error = death(event, "m", State.READY, LOG, 0)
    assert error.message == f"the worker of 'm' died while it was ready {said}"
    assert error.log_tail == LOG
