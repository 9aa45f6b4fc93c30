"""Platform of the workflows: timeouts and retry policies in one place (architecture §4).

Client 3 s < activity start-to-close. Order sends get one attempt, then resolve. Reads and
bookkeeping repeat until they succeed: they are idempotent. Steps of the order lane beat while
they run (`observability/beating.py`): a process that died in one is missed within `BEAT_TIMEOUT`,
no longer than its successor needs to start.
"""

from __future__ import annotations

from datetime import timedelta

from temporalio.common import Priority, RetryPolicy, SearchAttributeKey

from domain.commands import Urgency
from domain.trade_state import KNOWLEDGE_MAX_AGE_S

SEND_TIMEOUT = timedelta(seconds=5)
WALK_TIMEOUT = timedelta(seconds=6)
RESOLVE_TIMEOUT = timedelta(seconds=10)
READ_TIMEOUT = timedelta(seconds=10)
BOOKKEEPING_TIMEOUT = timedelta(seconds=10)
BEAT_TIMEOUT = timedelta(seconds=2)
ENTRY_QUEUE_TIMEOUT_MIN = timedelta(seconds=1)
# A stop's move that waits for longer was decided on knowledge too old to decide on, and an exit
# must not wait for it: it stood bare for 44 s behind one in a lane at 60 requests a minute (I4).
CHANGE_QUEUE_TIMEOUT = timedelta(seconds=KNOWLEDGE_MAX_AGE_S)
# A strategy may hang for its answer timeout at each of a page of bars.
DECIDE_TIMEOUT = timedelta(seconds=120)
TASK_TIMEOUT = timedelta(seconds=3)
# Before the open of a day, feed, strategies and baseline are made ready (wall time).
PREPARE_DAY = timedelta(seconds=10)

ONE_ATTEMPT = RetryPolicy(maximum_attempts=1)
REPEAT = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    maximum_interval=timedelta(seconds=5),
    backoff_coefficient=2.0,
)
READ_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=200),
    maximum_interval=timedelta(seconds=2),
    maximum_attempts=5,
)

# The order of an exit, and the quote that it waits for, go before the cancels of other exits: its
# own stop is down already, theirs still stand (I4). Temporal has five levels.
BARE_PRIORITY = Priority(priority_key=1)
PRIORITY = {
    Urgency.EXIT: Priority(priority_key=2),
    Urgency.PROTECT: Priority(priority_key=3),
    Urgency.ENTRY: Priority(priority_key=4),
}
REPORT_PRIORITY = Priority(priority_key=5)

# A run goes on in a new one at its next quiet point beyond either (I16: 2,000 events, 2 MB).
EVENTS_WISH_MAX = 1_000
BYTES_WISH_MAX = 1_000_000

TRADE_ID = SearchAttributeKey.for_keyword("TradeId")
ACCOUNT = SearchAttributeKey.for_keyword("Account")
STRATEGY = SearchAttributeKey.for_keyword("Strategy")
SYMBOL = SearchAttributeKey.for_keyword("Symbol")
STAGE = SearchAttributeKey.for_keyword("Stage")
MODE = SearchAttributeKey.for_keyword("Mode")
