"""Sending on one channel through Apprise: Telegram, Discord, e-mail, webhook, PagerDuty and more.

The library is imported by the first send, in the channel's own thread: half a second that no
worker's start, no kill and no order waits for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from domain.alerts import AlertText
from domain.commands import AlertSeverity
from domain.errors import BadInput, HoldfastError

CONNECT_TIMEOUT_S = 4
READ_TIMEOUT_S = 6
ERROR_MAX = 200
_SECRET_PART_MIN = 6
_TYPES = {
    AlertSeverity.INFO: "info",
    AlertSeverity.WARNING: "warning",
    AlertSeverity.CRITICAL: "failure",
}


def apprise_send(url_of: Callable[[], str]) -> Callable[[AlertText], str]:
    """A function that sends one text and answers why it failed, empty if it did not.

    Args:
        url_of: reads the channel's Apprise URL; may raise a HoldfastError that says what is
            missing. Asked at each send, so that a changed keyring entry counts at once.
    """

    def send(text: AlertText) -> str:
        try:
            return _send(url_of(), text)
        except BadInput as error:
            return f"{error.code} {error.field}: {error.allowed}"
        except HoldfastError as error:
            return error.code

    return send


def _send(url: str, text: AlertText) -> str:
    import apprise

    # Its lines may hold parts of URLs. What failed goes into the delivery's row, masked.
    logging.getLogger("apprise").propagate = False
    channel = apprise.Apprise()
    if not channel.add(_with_timeouts(url)):
        return "ALERT_URL: Apprise did not understand the URL"
    sent = channel.notify(title=text.title, body=text.body, notify_type=_TYPES[text.severity])
    if sent:
        return ""
    why = " ".join(entry.message for entry in sent.logs())
    return masked(why or "the service did not accept it", url)[:ERROR_MAX]


def _with_timeouts(url: str) -> str:
    """Apprise's own limits, unless the URL sets others."""
    if "rto=" in url:
        return url
    return f"{url}{'&' if '?' in url else '?'}cto={CONNECT_TIMEOUT_S}&rto={READ_TIMEOUT_S}"


def masked(text: str, url: str) -> str:
    """The text without any part of the URL that could be a token (faults.md S21)."""
    for part in sorted(re.split(r"[/:@?&=,]+", url)[1:], key=len, reverse=True):
        if len(part) >= _SECRET_PART_MIN:
            text = text.replace(part, "***")
    return text
