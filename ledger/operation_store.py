"""Leases with an epoch and stream cursors: who works, and how far it got."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from ledger.connection import LedgerConnection
from ledger.records import LeaseRecord
from ledger.tables import cursors, leases


class OperationStore(LedgerConnection):
    """Leases run on the clock of the database, so that workers need not agree on the time."""

    async def take_lease(self, name: str, holder: str, ttl_s: float) -> int | None:
        """Takes a free or expired lease and returns its epoch; None while another one holds it.

        The holder of a running lease gets its own epoch again; every change of hands raises it,
        so that work of an older epoch can be told.
        """
        until = func.clock_timestamp() + timedelta(seconds=ttl_s)
        expired = leases.c.expires_at <= func.clock_timestamp()
        mine = (leases.c.holder == holder) & ~expired
        statement = (
            upsert(leases)
            .values(name=name, holder=holder, epoch=1, expires_at=until)
            .on_conflict_do_update(
                index_elements=["name"],
                set_={
                    "holder": holder,
                    "epoch": case((mine, leases.c.epoch), else_=leases.c.epoch + 1),
                    "expires_at": until,
                },
                where=or_(mine, expired),
            )
            .returning(leases.c.epoch)
        )
        async with self._statement() as connection:
            epoch = (await connection.execute(statement)).scalar_one_or_none()
        return None if epoch is None else int(epoch)

    async def renew_lease(self, name: str, holder: str, epoch: int, ttl_s: float) -> bool:
        """Prolongs a lease that is still running and still this epoch's; False = stop working."""
        until = func.clock_timestamp() + timedelta(seconds=ttl_s)
        return await self._set_expiry(name, holder, epoch, until)

    async def release_lease(self, name: str, holder: str, epoch: int) -> bool:
        """Ends the lease now; False if it was not this holder's and epoch's."""
        return await self._set_expiry(name, holder, epoch, func.clock_timestamp())

    async def _set_expiry(self, name: str, holder: str, epoch: int, until: object) -> bool:
        statement = (
            update(leases)
            .where(
                leases.c.name == name,
                leases.c.holder == holder,
                leases.c.epoch == epoch,
                leases.c.expires_at > func.clock_timestamp(),
            )
            .values(expires_at=until)
        )
        async with self._statement() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def lease(self, name: str) -> LeaseRecord | None:
        """The lease as it stands, expired or not."""
        async with self._statement() as connection:
            query = select(leases).where(leases.c.name == name)
            row = (await connection.execute(query)).mappings().one_or_none()
        return None if row is None else LeaseRecord.model_validate(dict(row))

    async def get_cursor(self, name: str) -> str | None:
        """Where a reader of executions or streams goes on; None at the very beginning."""
        query = select(cursors.c.value).where(cursors.c.name == name)
        async with self._statement() as connection:
            value = (await connection.execute(query)).scalar_one_or_none()
        return None if value is None else str(value)

    async def set_cursor(self, name: str, value: str) -> None:
        """Stores the cursor; call it after what was read is booked."""
        statement = upsert(cursors).values(name=name, value=value)
        async with self._statement() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"],
                    set_={"value": value, "updated_at": func.clock_timestamp()},
                )
            )

    async def add_to_cursor(self, name: str, word: str) -> None:
        """Adds a word to a list of words, once; two at a time lose none."""
        words = func.string_to_array(cursors.c.value, " ")
        statement = upsert(cursors).values(name=name, value=word)
        async with self._statement() as connection:
            await connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name"],
                    set_={
                        "value": cursors.c.value + " " + word,
                        "updated_at": func.clock_timestamp(),
                    },
                    where=func.array_position(words, word).is_(None),
                )
            )
