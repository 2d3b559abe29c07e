"""Linear algebra on one thread: the solver's products are small, and several threads mostly wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_thread() -> Iterator[None]:
    """A context, or with `@one_thread()` a function, inside which BLAS uses one thread; then the old number is back.

    Sums then run in the same order however many cores there are, so that results agree to the bit. The limit holds for
    the whole process while it lasts, other threads of it included.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield
