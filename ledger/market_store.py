"""What the market-data stream leaves for other processes: halts, bars, wants, recordings.

The venue allows one connection, so one worker reads the stream and everybody else reads this.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from domain.bar import Bar
from domain.tick import TradingStatus
from ledger.connection import LedgerConnection
from ledger.records import MarketWant, RecordingCounts, RecordingRecord, RecordingState
from ledger.tables import cursors, market_bars, market_wants, recordings, trading_halts

BARS_KEPT = timedelta(days=7)
BARS_READ_MAX = 20_000


class MarketStore(LedgerConnection):
    """All instants of bars and halts are market time; wants and recordings end by wall time."""

    # --- halts ----------------------------------------------------------------------------------

    async def note_status(self, account: str, status: TradingStatus) -> None:
        """A halt begins or ends; an older message than the stored one changes nothing."""
        key = (trading_halts.c.account == account) & (trading_halts.c.symbol == status.symbol)
        async with self._work() as connection:
            if not status.is_halted:
                older = trading_halts.c.since <= status.venue_time
                await connection.execute(delete(trading_halts).where(key & older))
                return
            row = {"code": status.code, "reason": status.reason}
            statement = upsert(trading_halts).values(
                account=account, symbol=status.symbol, since=status.venue_time, **row
            )
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["account", "symbol"],
                    set_=row,
                    where=trading_halts.c.since <= status.venue_time,
                )
            )

    async def halts(self, account: str) -> tuple[TradingStatus, ...]:
        """Halts that were told and not ended, oldest first."""
        query = select(trading_halts).where(trading_halts.c.account == account)
        async with self._statement() as connection:
            ordered = query.order_by(trading_halts.c.since, trading_halts.c.symbol)
            rows = (await connection.execute(ordered)).mappings()
            return tuple(
                TradingStatus(
                    symbol=row["symbol"],
                    is_halted=True,
                    code=row["code"],
                    reason=row["reason"],
                    venue_time=row["since"],
                )
                for row in rows
            )

    async def forget_halts(self, account: str, before: datetime) -> tuple[str, ...]:
        """Drops halts that began before the instant; returns their symbols."""
        statement = (
            delete(trading_halts)
            .where(trading_halts.c.account == account, trading_halts.c.since < before)
            .returning(trading_halts.c.symbol)
        )
        async with self._statement() as connection:
            return tuple((await connection.execute(statement)).scalars())

    # --- wants ----------------------------------------------------------------------------------

    async def want_market(
        self, account: str, source: str, symbols: Sequence[str], interval_s: int, until: datetime
    ) -> None:
        """The source needs bars of these symbols until then; say it again before that."""
        rows = [
            {"account": account, "source": source, "symbol": name, "interval_s": interval_s}
            for name in sorted(set(symbols))
        ]
        if not rows:
            return
        statement = upsert(market_wants).values([row | {"until": until} for row in rows])
        async with self._statement() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["account", "source", "symbol"],
                    set_={"until": until, "interval_s": interval_s},
                )
            )

    async def market_wants(self, account: str, now: datetime) -> tuple[MarketWant, ...]:
        """Who wants what now; wants that ran out are removed."""
        mine = market_wants.c.account == account
        query = select(market_wants).where(mine)
        ordered = query.order_by(market_wants.c.source, market_wants.c.symbol)
        async with self._statement() as connection:
            rows = (await connection.execute(ordered)).mappings().all()
        held = [row for row in rows if row["until"] >= now]
        if len(held) < len(rows):
            over = delete(market_wants).where(mine, market_wants.c.until < now)
            async with self._statement() as connection:
                await connection.execute(over)
        return tuple(MarketWant.model_validate(dict(row)) for row in held)

    # --- bars -----------------------------------------------------------------------------------

    async def seal_bars(
        self, account: str, interval_s: int, bars: Sequence[Bar], sealed_to: datetime
    ) -> None:
        """Stores whole bars and that all of them up to `sealed_to` are there, in one go."""
        rows = [{"account": account, "interval_s": interval_s, **bar.model_dump()} for bar in bars]
        name = sealed_cursor(account, interval_s)
        mark = upsert(cursors).values(name=name, value=sealed_to.isoformat())
        async with self._work() as connection:
            if rows:
                await connection.execute(upsert(market_bars).values(rows).on_conflict_do_nothing())
            await connection.execute(
                mark.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"value": mark.excluded.value, "updated_at": func.clock_timestamp()},
                )
            )

    async def bars_sealed_to(self, account: str, interval_s: int) -> datetime | None:
        """Market instant up to which every whole bar is stored; None before the first one."""
        name = sealed_cursor(account, interval_s)
        query = select(cursors.c.value).where(cursors.c.name == name)
        async with self._statement() as connection:
            value = (await connection.execute(query)).scalar_one_or_none()
        return None if value is None else datetime.fromisoformat(str(value))

    async def market_bars(
        self,
        account: str,
        interval_s: int,
        symbols: Sequence[str],
        after: datetime | None,
        until: datetime,
    ) -> tuple[Bar, ...]:
        """Whole bars with after < end <= until, oldest first."""
        query = select(market_bars).where(
            market_bars.c.account == account,
            market_bars.c.interval_s == interval_s,
            market_bars.c.symbol.in_(list(symbols)),
            market_bars.c.end <= until,
        )
        if after is not None:
            query = query.where(market_bars.c.end > after)
        newest = query.order_by(market_bars.c.end.desc(), market_bars.c.symbol.desc())
        async with self._statement() as connection:
            rows = (await connection.execute(newest.limit(BARS_READ_MAX))).mappings().all()
        return tuple(Bar.model_validate(dict(row)) for row in reversed(rows))

    async def drop_old_bars(self, account: str, now: datetime) -> int:
        """Removes bars that no session looks back to any more; `now` is market time."""
        old = market_bars.c.end < now - BARS_KEPT
        statement = delete(market_bars).where(market_bars.c.account == account, old)
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount

    # --- recordings -----------------------------------------------------------------------------

    async def start_recording(self, record: RecordingRecord) -> bool:
        """Adds a recording; False if the name is taken."""
        row = record.model_dump(exclude={"counts"}) | {"document": _document(record.counts)}
        statement = upsert(recordings).values(**row).on_conflict_do_nothing()
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def stop_recording(self, name: str, reason: str) -> bool:
        """Asks the worker to end it; False if it does not run."""
        statement = (
            update(recordings)
            .where(recordings.c.name == name, recordings.c.state == RecordingState.RECORDING)
            .values(state=RecordingState.STOPPING, reason=reason)
        )
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def save_recording(
        self, name: str, counts: RecordingCounts, *, ended_at: datetime | None = None
    ) -> None:
        """What is on disk now; with `ended_at` the recording is over."""
        values: dict[str, object] = {"document": _document(counts)}
        if ended_at is not None:
            values |= {"state": RecordingState.ENDED, "ended_at": ended_at}
        async with self._statement() as connection:
            await connection.execute(
                update(recordings).where(recordings.c.name == name).values(**values)
            )

    async def recordings(
        self, account: str, *, open_only: bool = False
    ) -> tuple[RecordingRecord, ...]:
        """Recordings of the account, newest first."""
        query = select(recordings).where(recordings.c.account == account)
        if open_only:
            query = query.where(recordings.c.state != RecordingState.ENDED)
        newest = query.order_by(recordings.c.started_at.desc(), recordings.c.name)
        async with self._statement() as connection:
            rows = (await connection.execute(newest)).mappings().all()
        return tuple(_recording_of(row) for row in rows)


def sealed_cursor(account: str, interval_s: int) -> str:
    """Cursor that says up to when the bars of this length are complete (market time)."""
    return f"market-bars/{account}/{interval_s}"


def _document(counts: RecordingCounts) -> dict[str, object]:
    return counts.model_dump(mode="json")


def _recording_of(row: RowMapping) -> RecordingRecord:
    return RecordingRecord.model_validate({**row, "counts": row["document"]})
