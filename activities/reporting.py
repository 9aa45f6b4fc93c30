"""Alerts of activities that speak for an account, not for one trade's workflow."""

from __future__ import annotations

from temporalio import activity

from activities.services import AlertMessage, Services
from domain.commands import Alert, AlertSeverity
from domain.errors import HoldfastError


async def report(
    services: Services,
    code: str,
    text: str,
    trade_id: str = "",
    severity: AlertSeverity = AlertSeverity.CRITICAL,
) -> None:
    """Logs, tells every sink and audits. Never raises: an alert does not stop the work."""
    activity.logger.warning("%s of %s: %s", code, trade_id or services.account, text)
    alert = Alert(code=code, severity=severity, text=text)
    for sink in services.alert_sinks:
        sink(AlertMessage(trade_id=trade_id, account=services.account, alert=alert))
    try:
        await services.ledger.append_audit(
            services.account,
            f"alert.{code}",
            trade_id or services.account,
            {"severity": severity.value, "text": text[:500]},
        )
    except HoldfastError as error:
        activity.logger.warning("alert %s not audited: %s", code, error.code)
