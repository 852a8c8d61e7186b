"""How a rowid of ``ec_consumption`` says a row's rank; pure.

``rowid = rank * 1024 + n``: the rank is the moment of insertion in epoch microseconds, and n tells apart
the rows of different devices that have the same one. Rules:

1. Rowids below LAYOUT_2 were given by files of layout 1, one after the other: they rank as they are,
   below all later ones.
2. Another tool that inserts a row gets the highest rowid plus one, which a trigger raises to the next
   rank, so its row ranks last.
3. Rows of one second that have the same rank (two servers can produce them) rank by their key, as in every
   engine.
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
    """The rank of each stored row, and how far its rowid is above its rank's first."""
    ranks = np.where(rowids >= LAYOUT_2, rowids // _PER_MICROSECOND, rowids)
    firsts = ranks * _PER_MICROSECOND
    return ranks, rowids - np.where(firsts >= LAYOUT_2, firsts, ranks)


def is_shared(rowid: int) -> bool:
    """Whether other rows may have the same rank."""
    return rowid % _PER_MICROSECOND != 0 and rowid >= LAYOUT_2


def first_rowid(rank: int) -> int:
    """The lowest rowid of a rank."""
    return rank * _PER_MICROSECOND if rank * _PER_MICROSECOND >= LAYOUT_2 else rank


def rowids_after(last_rowid: int, now_us: int, count: int) -> range:
    """Rowids of ``count`` rows inserted now, one rank each, above every stored one.

    ``last_rowid`` is the highest that is stored, 0 for none; ``now_us`` the clock, which may step back.
    """
    first = max(now_us, last_rowid // _PER_MICROSECOND + 1)
    return range(first * _PER_MICROSECOND, (first + count) * _PER_MICROSECOND, _PER_MICROSECOND)
