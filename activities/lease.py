"""Work that one process at a time should do: a lease in the ledger with an epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from temporalio import activity

from activities.hosting import run_until_one_ends
from activities.services import Services
from domain.errors import HoldfastError

LEASE_TTL_S = 3.0
LEASE_RENEW_S = 1.0

Jobs = Callable[[], list[Coroutine[Any, Any, None]]]


class LeaseLost(Exception):
    """Another process works now."""


async def lead_for_ever(services: Services, name: str, holder: str, jobs: Jobs) -> None:
    """Runs the jobs whenever the lease is free; passive while another holder works.

    A crashed holder's lease runs out after 3 s, about when its missed heartbeat is noticed.
    """
    while True:
        epoch = await _take(services, name, holder)
        if epoch is None:
            await asyncio.sleep(LEASE_RENEW_S)
            continue
        try:
            await run_until_one_ends([_keep(services, name, holder, epoch), *jobs()])
        except LeaseLost:
            activity.logger.warning("lease %s epoch %d was lost", name, epoch)
        finally:
            await _release(services, name, holder, epoch)


async def _take(services: Services, name: str, holder: str) -> int | None:
    try:
        return await services.ledger.take_lease(name, holder, LEASE_TTL_S)
    except HoldfastError as error:
        activity.logger.warning("lease %s: %s", name, error.code)
        return None


async def _keep(services: Services, name: str, holder: str, epoch: int) -> None:
    """Renews the lease. A ledger that is away lets nobody else lead either: go on."""
    while True:
        await asyncio.sleep(LEASE_RENEW_S)
        try:
            kept = await services.ledger.renew_lease(name, holder, epoch, LEASE_TTL_S)
        except HoldfastError as error:
            activity.logger.warning("lease %s not renewed: %s", name, error.code)
            continue
        if not kept:
            raise LeaseLost(name)


async def _release(services: Services, name: str, holder: str, epoch: int) -> None:
    try:
        await services.ledger.release_lease(name, holder, epoch)
    except HoldfastError as error:
        activity.logger.warning("lease %s runs out by itself: %s", name, error.code)
