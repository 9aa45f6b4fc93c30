"""The story of a trade in Markdown: what the Web UI and `trade show` tell a person."""

from __future__ import annotations

from decimal import Decimal

from domain import trade_state as ts
from domain.money import shown
from domain.slices import Slicing, slicing
from domain.trade_state import OrderRecord, Role, TradeState

ORDERS_SHOWN_MAX = 40


def story_of(state: TradeState) -> str:
    """Markdown of plan, stage, protection, orders and result; derived, never stored."""
    plan = state.plan
    lines = [
        f"### {plan.side} {plan.symbol} · {ts.stage(state)}",
        "",
        f"- trade `{plan.trade_id}` · strategy {plan.strategy} · account {plan.account}"
        f" · version {state.version}",
        f"- {_plan_line(state)}",
    ]
    if state.refusal_code:
        why = state.refusal_text.removeprefix(state.refusal_code).strip()
        lines.append(f"- **refused**: {state.refusal_code} {why}".rstrip())
    if state.ticket is not None:
        lines.append(_position_line(state))
    progress = slicing(state)
    if progress is not None:
        lines.append(_slices_line(progress))
    if state.walk.ended:
        lines.append(f"- entry ended: {state.walk.ended}")
    if state.exit.reason:
        pending = f" · pending: {state.exit.pending}" if state.exit.pending else ""
        lines.append(f"- exit: {state.exit.reason}{pending}")
    if ts.hand(state):
        lines.append(f"- **{ts.hand(state).replace('_', ' ')}** by a person")
    if state.needs_operator:
        lines.append(f"- **needs operator**: {state.needs_operator}")
    if state.realised is not None:
        fees = "unknown" if state.fees is None else shown(state.fees)
        lines.append(f"- realised {shown(state.realised)} after fees {fees}")
    if state.orders:
        lines += [
            "",
            "| order | side | quantity | price | filled | state |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_order_line(state, record) for record in state.orders[-ORDERS_SHOWN_MAX:]]
    return "\n".join(lines)


def _plan_line(state: TradeState) -> str:
    plan = state.plan
    targets = ", ".join(
        f"{_price(t.price.absolute, t.price.offset)} x {shown(t.fraction)}" if t.price else "runner"
        for t in plan.targets
    )
    stop = "none" if plan.stop is None else _price(plan.stop.price.absolute, plan.stop.price.offset)
    time_stop = f" · time stop {shown(plan.time_stop_s)} s" if plan.time_stop_s is not None else ""
    rules = ", ".join(f"{r.kind.replace('_', ' ')} {shown(r.threshold)}" for r in plan.rules)
    watched = f" · watched {rules}" if rules else ""
    return f"stop {stop} · targets {targets or 'none'}{watched}{time_stop}"


def _price(absolute: Decimal | None, offset: Decimal | None) -> str:
    if absolute is not None:
        return shown(absolute)
    return "-" if offset is None else f"{'+' if offset >= 0 else ''}{shown(offset)}"


def _slices_line(progress: Slicing) -> str:
    after = "" if progress.next_at is None else f", next at {progress.next_at:%H:%M:%S} UTC"
    return f"- entry slice {progress.number} of {progress.count}{after}"


def _position_line(state: TradeState) -> str:
    held = ts.held_units(state)
    average = ts.average_price(state, Role.ENTRY)
    naked = f" · naked {state.naked.total_s:.1f} s" if state.naked.total_s else ""
    if state.naked.since is not None:
        naked += f" · **naked since {state.naked.since:%H:%M:%S} UTC**"
    at = f" @ {shown(average)}" if average is not None else ""
    stop = "-" if state.stop_price is None else shown(state.stop_price)
    return (
        f"- held **{shown(held)}**{at} · protection **{ts.protection(state)}** · stop {stop}{naked}"
    )


def working_lines(state: TradeState) -> tuple[str, ...]:
    """Each live order in one line: role, state, side, quantity, symbol, price."""
    return tuple(
        f"{o.role} {o.state} {o.side} {shown(o.quantity)} {o.symbol} @ {_order_price(o)}"
        for o in state.live()
    )


def _order_price(record: OrderRecord) -> str:
    price = record.limit_price if record.limit_price is not None else record.stop_price
    return "market" if price is None else shown(price)


def _order_line(state: TradeState, record: OrderRecord) -> str:
    at = _order_price(record)
    tranche = f" {record.tranche + 1}" if record.tranche is not None else ""
    return (
        f"| {record.role}{tranche} | {record.side} | {shown(record.quantity)} | {at}"
        f" | {shown(ts.filled_quantity(state, record))} | {record.state} |"
    )
