"""How a rowid of ``ec_consumption`` encodes the row's rank; pure.

``rowid = rank * 1024 + n``: the rank is the time of insertion in epoch microseconds, and n distinguishes
rows of different devices that have the same rank. Rules:

1. Rowids below LAYOUT_2 come from files of layout 1, which numbered rows consecutively: the rowid is the
   rank, lower than all later ones.
2. A row that another program inserts gets the highest rowid plus one, which a trigger raises to the next
   rank, so that it ranks highest.
3. Rows of one second that have the same rank (two servers can produce them) are ordered by their key, as in
   every engine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Numbers = npt.NDArray[np.int64]

_PER_MICROSECOND = 1024
LAYOUT_2 = 2**50


def rank_of(rowid: int) -> int:
    """The rank of a stored row."""
    return rowid // _PER_MICROSECOND if rowid >= LAYOUT_2 else rowid


def ranks_and_ties(rowids: _Numbers) -> tuple[_Numbers, _Numbers]:
    """For each rowid, the rank, and its distance from the first rowid of that rank."""
    ranks = np.where(rowids >= LAYOUT_2, rowids // _PER_MICROSECOND, rowids)
    firsts = ranks * _PER_MICROSECOND
    return ranks, rowids - np.where(firsts >= LAYOUT_2, firsts, ranks)


def is_shared(rowid: int) -> bool:
    """Whether other rows may have the same rank as this one."""
    return rowid % _PER_MICROSECOND != 0 and rowid >= LAYOUT_2


def first_rowid(rank: int) -> int:
    """The lowest rowid of a rank."""
    return rank * _PER_MICROSECOND if rank * _PER_MICROSECOND >= LAYOUT_2 else rank


def rowids_after(last_rowid: int, now_us: int, count: int) -> range:
    """Rowids of ``count`` rows inserted now, one rank each, above every stored one.

    ``last_rowid`` is the highest stored one, 0 if none is; ``now_us`` is the clock, which may step back.
    """
    first = max(now_us, last_rowid // _PER_MICROSECOND + 1)
    return range(first * _PER_MICROSECOND, (first + count) * _PER_MICROSECOND, _PER_MICROSECOND)
