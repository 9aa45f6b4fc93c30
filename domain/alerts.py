"""What a person is told, and who hears it: severities, channels, quiet hours, escalation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, time

from pydantic import AwareDatetime

from domain.base import Frozen
from domain.commands import AlertSeverity

ALL_ACCOUNTS = "*"
TEXT_MAX = 500
_RANK = {AlertSeverity.INFO: 0, AlertSeverity.WARNING: 1, AlertSeverity.CRITICAL: 2}


class AlertDraft(Frozen):
    """An alert before it has a row. Equal keys are one alert (faults.md I18).

    With `once` a key is raised once for ever (a kill, the opening of a trade). Otherwise it is
    raised again if it comes back after the ledger's repeat window; inside of it it only counts.
    """

    key: str
    account: str
    code: str
    severity: AlertSeverity
    text: str
    trade_id: str | None = None
    once: bool = False

    @classmethod
    def of(
        cls, account: str, trade_id: str, code: str, severity: AlertSeverity, text: str
    ) -> AlertDraft:
        """The alert of a part that knows no key of its own.

        A critical one is told apart by its text, because two unknown orders are two events; a
        lesser one is not, so that a flapping value ("5 s late", "6 s late") is one alert.
        """
        key = f"{account}/{trade_id}/{code}"
        if severity is AlertSeverity.CRITICAL:
            key += "/" + hashlib.sha256(text.encode()).hexdigest()[:12]
        return cls(
            key=key,
            account=account,
            code=code,
            severity=severity,
            text=text[:TEXT_MAX],
            trade_id=trade_id or None,
        )


class AlertChannel(Frozen):
    """One way to a person. An `escalation` channel hears only what nobody acknowledged."""

    name: str
    minimum: AlertSeverity = AlertSeverity.INFO
    escalation: bool = False


class QuietHours(Frozen):
    """A part of the local day, possibly over midnight; equal ends mean never."""

    start: time
    end: time

    def contains(self, local: time) -> bool:
        if self.start <= self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end


@dataclass(frozen=True)
class AlertPolicy:
    """Who hears what, and how long a critical alert may stay without an owner (wall seconds)."""

    channels: tuple[AlertChannel, ...] = ()
    is_quiet: Callable[[datetime], bool] = lambda at: False
    unacknowledged_after_s: float = 300.0
    repeats_max: int = 12


class Receiver(Frozen):
    """A channel that an alert goes to; a muted one is recorded and not sent."""

    channel: str
    is_muted: bool = False
    escalated: bool = False


def receivers(
    severity: AlertSeverity,
    channels: Sequence[AlertChannel],
    *,
    is_escalation: bool = False,
    is_quiet: bool = False,
) -> tuple[Receiver, ...]:
    """Who hears an alert. Quiet hours never mute a critical one (control 17)."""
    muted = is_quiet and severity is not AlertSeverity.CRITICAL
    return tuple(
        Receiver(channel=each.name, is_muted=muted, escalated=is_escalation)
        for each in channels
        if _RANK[severity] >= _RANK[each.minimum] and (is_escalation or not each.escalation)
    )


class AlertText(Frozen):
    """An alert as a channel sends it."""

    title: str
    body: str
    severity: AlertSeverity


def in_words(
    *,
    alert_id: int,
    severity: AlertSeverity,
    code: str,
    account: str,
    text: str,
    trade_id: str | None,
    raised_at: AwareDatetime,
    escalations: int = 0,
) -> AlertText:
    """Title and body of a message; an escalation says that nobody has acknowledged."""
    who = "all accounts" if account == ALL_ACCOUNTS else account
    lines = [text or code]
    if trade_id:
        lines.append(f"trade {trade_id}")
    lines.append(f"raised {raised_at:%Y-%m-%d %H:%M:%S} UTC")
    if severity is AlertSeverity.CRITICAL:
        lines.append(f"acknowledge: starter.py alert ack {alert_id}")
    again = f" (not acknowledged, repeat {escalations})" if escalations else ""
    title = f"[{severity.value.upper()}] {code} {who}{again}"
    return AlertText(title=title, body="\n".join(lines), severity=severity)
