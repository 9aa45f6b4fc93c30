"""Settings to ports: what the worker process and the command line both wire.

Composition code, imported by composition roots only; light, because a kill waits for its imports.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from activities.market_parts import MarketParts, OpenRecorder
from brokers.alpaca.client import AlpacaBroker
from brokers.alpaca.config import AlpacaMode
from brokers.alpaca.market_stream import AlpacaMarketStream
from brokers.port import Broker
from brokers.shadow import DryRunBroker
from brokers.tradier.client import TradierBroker
from brokers.transport import Watch, unwatched
from deploy.local.kill_journal import KillJournal
from domain.alerts import AlertChannel, AlertPolicy, AlertText, QuietHours
from domain.errors import BadInput, Refused
from domain.instrument import Instrument
from domain.risk.limit_changes import LimitProposal, changes, strictest
from domain.risk.limits import Limits
from keyring_store import read_keyring, service_name
from ledger.records import RecordingRecord
from ledger.repository import Ledger
from marketdata.live_bars import LiveBars
from marketdata.recording import RecordingTerms, TapeRecorder, drop_unfinished
from marketdata.subscriptions import SubscriptionBook
from observability.apprise_channel import apprise_send
from settings import AlertChannelSection, BarSource, Settings, Venue

RECORDINGS = "recordings"


def broker_of(settings: Settings, *, reserved: bool = False, watch: Watch = unwatched) -> Broker:
    """The account's adapter; with `dry_run` nothing that it is asked to write goes out.

    `watch` looks on at its requests.

    The `reserved` one of the kill is never a dry one: it only takes risk away.
    """
    broker: Broker
    if settings.broker.venue is Venue.TRADIER:
        broker = TradierBroker(settings.tradier(), reserved=reserved, watch=watch)
    else:
        broker = AlpacaBroker(settings.alpaca(), reserved=reserved, watch=watch)
    return broker if reserved or not settings.safety.dry_run else DryRunBroker(broker)


def config_hash(settings: Settings) -> str:
    """Which settings an order was made under; secrets and addresses are left out."""
    addresses = {"trading_url", "data_url", "stream_url", "key_file"}
    text = settings.model_dump_json(
        exclude={
            "broker": addresses,
            "market_data": {"url"},
            **dict.fromkeys(("broker_key_id", "broker_secret", "ledger", "temporal"), True),
            **dict.fromkeys(("encryption", "payload_keys"), True),
            **dict.fromkeys(("observability", "alerts", "alert_urls"), True),
            **dict.fromkeys(("read_at", "source"), True),
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def market_parts(settings: Settings, data_dir: Path | None) -> MarketParts | None:
    """The market-data stream of the account; recordings go below the data directory.

    None at Tradier: its sandbox streams no market, and its live stream is not built; quotes are
    polled.
    """
    if settings.broker.venue is Venue.TRADIER:
        return None
    config, told = settings.alpaca(), settings.market_data
    simulated = settings.broker.mode is AlpacaMode.SIMULATOR
    feed = f"{settings.broker.venue} {settings.broker.mode} {told.feed}"

    def recorder(record: RecordingRecord, instruments: Mapping[str, Instrument]) -> OpenRecorder:
        if data_dir is None:
            raise Refused("the worker has no data directory", code="NO_DATA_DIR")
        folder = data_dir / RECORDINGS / record.name
        drop_unfinished(folder)
        terms = RecordingTerms(recording=record.name, source=feed, quotes_are_real=not simulated)
        return OpenRecorder(TapeRecorder(folder, terms, instruments), str(folder))

    return MarketParts(
        stream=lambda: AlpacaMarketStream(config, lambda: datetime.now(UTC)),
        bars=LiveBars,
        book=SubscriptionBook,
        recorder=recorder,
        stays_connected=told.halts or told.source is BarSource.STREAM,
        follows_positions=told.source is BarSource.STREAM,
        silence_s=told.silence_s,
    )


def alert_policy(settings: Settings) -> AlertPolicy:
    """Who hears which alerts, with quiet hours in the zone of the people."""
    told = settings.alerts
    return AlertPolicy(
        channels=tuple(
            AlertChannel(name=each.name, minimum=each.minimum, escalation=each.escalation)
            for each in told.channels
        ),
        is_quiet=_quiet(settings),
        unacknowledged_after_s=told.unacknowledged_after_s,
        repeats_max=told.repeats_max,
    )


def _quiet(settings: Settings) -> Callable[[datetime], bool]:
    hours = settings.alerts.quiet_hours
    if hours is None:
        return lambda at: False
    place = ZoneInfo(hours.zone or settings.account.time_zone)
    start, end = time.fromisoformat(hours.start), time.fromisoformat(hours.end)
    quiet = QuietHours(start=start, end=end)
    return lambda at: quiet.contains(at.astimezone(place).time())


def alert_sends(settings: Settings) -> dict[str, Callable[[AlertText], str]]:
    """A sending function per channel; its URL is looked up when it sends."""

    def url_of(channel: AlertChannelSection) -> str:
        given = settings.alert_urls.get(channel.variable)
        if given is not None:
            return given.get_secret_value()
        try:
            return read_keyring(settings.account.name, f"alert_url/{channel.name}")
        except BadInput:
            allowed = f"{channel.variable} in the environment, or keyring set "
            allowed += f"{service_name(settings.account.name)} alert_url/{channel.name}"
            raise BadInput("ALERT_URL", channel.name, "", allowed) from None

    return {each.name: apprise_send(partial(url_of, each)) for each in settings.alerts.channels}


async def limits_in_force(ledger: Ledger, account: str, wanted: Limits) -> Limits:
    """The limits of the settings, but none looser than before while trades are open (row 52).

    A stricter limit counts at once. Every difference goes into the audit; what was held back is
    taken over by a start at which nothing is open, or at which two people have agreed to exactly
    these limits. Limits judge entries only.
    """
    cursor = f"limits/{account}"
    stored = await ledger.get_cursor(cursor)
    before = await limits_known(ledger, account, wanted)
    found = changes(before, wanted)
    is_held = any(change.looser for change in found) and bool(
        await ledger.list_trades(account=account, open_only=True, limit=1)
    )
    agreed = await limit_proposal(ledger, account) if is_held else None
    if agreed is not None and agreed.allows(wanted, datetime.now(UTC)):
        is_held = False
    else:
        agreed = None
    in_force = strictest(before, wanted) if is_held else wanted
    if found:
        action = "limits_held" if is_held else "limits_changed"
        details = {each.name: f"{each.before} -> {each.after}" for each in found}
        if agreed is not None:
            details |= {"proposed_by": agreed.by, "approved_by": agreed.approved_by}
        await ledger.append_audit("settings", action, account, details)
    if stored is None or in_force != before:
        await ledger.set_cursor(cursor, in_force.model_dump_json())
    return in_force


def proposal_cursor(account: str) -> str:
    """Where the newest proposal of other limits is kept."""
    return f"limits-proposal/{account}"


async def limit_proposal(ledger: Ledger, account: str) -> LimitProposal | None:
    """The newest proposal of the account; None if there is none that this build can read."""
    stored = await ledger.get_cursor(proposal_cursor(account))
    try:
        return None if not stored else LimitProposal.model_validate_json(stored)
    except ValidationError:
        return None


async def limits_known(ledger: Ledger, account: str, wanted: Limits) -> Limits:
    """The limits that were in force last; those of the settings where there were none."""
    stored = await ledger.get_cursor(f"limits/{account}")
    return wanted if stored is None else _known_limits(stored, wanted)


def _known_limits(stored: str, wanted: Limits) -> Limits:
    """The limits of an earlier start; one that its build did not know yet is new, not changed.

    Another build may know other limits: a worker that cannot read them would not start, and
    exits would wait for it.
    """
    row: dict[str, object] = json.loads(stored)
    known = {name: row[name] for name in Limits.model_fields if name in row}
    return Limits.model_validate({**wanted.model_dump(), **known})


async def copy_journal(ledger: Ledger, journal: KillJournal) -> int:
    """Brings kills that were engaged without the ledger into it; returns how many."""
    entries = journal.pending()
    for entry in entries:
        await ledger.engage_kill(entry.account, entry.kill)
    if entries:
        journal.put_aside(len(entries))
    return len(entries)
