"""The timer queue against the obvious model: a dict that is searched."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ntmpatch.base.timers import TimerQueue

KEYS = st.integers(0, 20)
INSTANTS = st.integers(0, 50).map(float)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), KEYS, INSTANTS),
        st.tuples(st.just("cancel"), KEYS, INSTANTS),
        st.tuples(st.just("pop"), KEYS, INSTANTS),
    ),
    max_size=300,
)


@given(STEPS)
def test_behaves_as_a_dict_of_instants(steps: list[tuple[str, int, float]]) -> None:
    queue: TimerQueue[int] = TimerQueue()
    model: dict[int, float] = {}
    for step, key, instant in steps:
        match step:
            case "arm":
                queue.arm(key, instant)
                model[key] = instant
            case "cancel":
                queue.cancel(key)
                model.pop(key, None)
            case "pop":
                due = sorted(due_at for due_at in model.values() if due_at <= instant)
                assert [model.pop(popped) for popped in queue.pop_due(instant)] == due
        assert len(queue) == len(model)
        assert queue.earliest() == min(model.values(), default=None)
        assert queue.due_at(key) == model.get(key)


def test_moving_one_timer_for_ever_does_not_grow_the_heap() -> None:
    queue: TimerQueue[str] = TimerQueue()
    for instant in range(10_000):
        queue.arm("keep-alive", float(instant))
    assert len(queue._heap) <= 65
    assert queue.pop_due(1e9) == ["keep-alive"]
