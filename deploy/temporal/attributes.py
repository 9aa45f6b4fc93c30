"""Typed search attributes: the columns of the Web UI's list (architecture §4).

All are keywords and none is secret: values are not encrypted, even with a payload codec.
"""

from __future__ import annotations

from temporalio.common import SearchAttributeKey

TRADE_ID = SearchAttributeKey.for_keyword("TradeId")
ACCOUNT = SearchAttributeKey.for_keyword("Account")
STRATEGY = SearchAttributeKey.for_keyword("Strategy")
SYMBOL = SearchAttributeKey.for_keyword("Symbol")
STAGE = SearchAttributeKey.for_keyword("Stage")
MODE = SearchAttributeKey.for_keyword("Mode")

SEARCH_ATTRIBUTES: tuple[SearchAttributeKey[str], ...] = (
    TRADE_ID,
    ACCOUNT,
    STRATEGY,
    SYMBOL,
    STAGE,
    MODE,
)
