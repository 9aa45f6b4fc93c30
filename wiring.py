"""Settings to ports: what the worker process and the command line both wire.

Composition code, imported by composition roots only; light, because a kill waits for its imports.
"""

from __future__ import annotations

import hashlib

from brokers.alpaca.client import AlpacaBroker
from brokers.port import Broker
from brokers.shadow import DryRunBroker
from deploy.local.kill_journal import KillJournal
from ledger.repository import Ledger
from settings import Settings


def broker_of(settings: Settings, *, reserved: bool = False) -> Broker:
    """The account's adapter; with `dry_run` nothing that it is asked to write goes out.

    The `reserved` one of the kill is never a dry one: it only takes risk away.
    """
    broker = AlpacaBroker(settings.alpaca(), reserved=reserved)
    return broker if reserved or not settings.safety.dry_run else DryRunBroker(broker)


def config_hash(settings: Settings) -> str:
    """Which settings an order was made under; secrets and addresses are left out."""
    addresses = {"trading_url", "data_url", "stream_url", "key_file"}
    text = settings.model_dump_json(
        exclude={
            "broker": addresses,
            **dict.fromkeys(("broker_key_id", "broker_secret", "ledger", "temporal"), True),
            **dict.fromkeys(("observability", "alerts", "alert_urls"), True),
            **dict.fromkeys(("read_at", "source"), True),
        }
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def copy_journal(ledger: Ledger, journal: KillJournal) -> int:
    """Brings kills that were engaged without the ledger into it; returns how many."""
    entries = journal.pending()
    for entry in entries:
        await ledger.engage_kill(entry.account, entry.kill)
    if entries:
        journal.put_aside(len(entries))
    return len(entries)
