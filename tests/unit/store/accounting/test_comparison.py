from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.accounting.comparison import break_even

sizes = st.integers(0, 1000)


@given(sizes, sizes, sizes, sizes, st.integers(1, 20))
def test_break_even_is_the_first_number_of_tasks_from_which_less_is_taken_here(fixed, per_task, other, slope, tasks):
    found = break_even(fixed, fixed + tasks * per_task, other, other + tasks * slope, tasks)
    least = [k for k in range(1, 2100) if fixed + k * per_task < other + k * slope]
    for_good = least and fixed + 10**9 * per_task < other + 10**9 * slope
    assert found == (least[0] if for_good else None)


def test_break_even_of_tasks_that_take_no_whole_number_of_bytes_each_is_exact() -> None:
    assert break_even(10, 10 + 5, 0, 8, 3) == 11  # 10 + 5 K / 3 < 8 K / 3 from K = 11 on, and is equal at 10
