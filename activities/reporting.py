"""Alerts of activities that speak for an account, not for one trade's workflow."""

from __future__ import annotations

import logging

from activities.services import AlertMessage, Services
from domain.alerts import TEXT_MAX, AlertDraft
from domain.commands import Alert, AlertSeverity
from domain.errors import HoldfastError

_log = logging.getLogger(__name__)


async def report(
    services: Services,
    code: str,
    text: str,
    trade_id: str = "",
    severity: AlertSeverity = AlertSeverity.CRITICAL,
) -> None:
    """Logs, tells every sink, audits, and puts the alert into the outbox. Never raises."""
    await report_draft(services, AlertDraft.of(services.account, trade_id, code, severity, text))


async def report_draft(services: Services, draft: AlertDraft) -> None:
    """The same for an alert with a key of its own: an alert does not stop the work."""
    trade_id = draft.trade_id or ""
    try:
        is_told = await services.ledger.raise_alert(draft, services.account)
    except HoldfastError as error:
        _log.warning("alert %s not in the outbox: %s", draft.code, error.code)
        is_told = True
    if not is_told and draft.once:
        return
    subject = trade_id or services.account
    _log.warning(
        "%s of %s: %s",
        draft.code,
        subject,
        draft.text,
        extra={"trade_id": trade_id} if trade_id else {},
    )
    alert = Alert(code=draft.code, severity=draft.severity, text=draft.text[:TEXT_MAX])
    for sink in services.alert_sinks:
        sink(AlertMessage(trade_id=trade_id, account=services.account, alert=alert))
