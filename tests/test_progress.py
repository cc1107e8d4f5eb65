"""What the line of a run says of its rate, its validation and the time left."""

import re

import pytest

from llmrecipe import progress
from llmrecipe.progress import TrainingProgress, told


class Clock:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def new_progress(**changes) -> TrainingProgress:
    return TrainingProgress(
        **{"name": "t", "total": 10, "done": 0, "tokens_per_step": 1000, "interval": 1, "validation_interval": 4}
        | changes
    )


def run(line: TrainingProgress, clock: Clock, steps: range) -> None:
    """Steps of two seconds, each fourth followed by a validation of ten."""
    for step in steps:
        clock.now += 2
        if step % 4 == 0:
            clock.now += 10
            line.validated(3.25, 10.0)
        line.step(step, 2.0, loss=4.5)


def test_a_validation_stands_on_the_line_of_its_step_alone(clock, capsys):
    run(new_progress(), clock, range(1, 7))

    lines = capsys.readouterr().err.splitlines()
    assert [re.findall(r"validation [\d.]+", line) for line in lines] == [*[[]] * 3, ["validation 3.2500"], [], []]


def test_a_log_has_a_line_of_each_step_that_was_validated(clock, capsys):
    run(new_progress(interval=5), clock, range(1, 11))

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("/")[0] for line in lines] == [f"t: step {step}" for step in (1, 4, 5, 8, 10)]
    assert ["validation" in line for line in lines] == [False, True, False, True, False]


def test_a_validation_stays_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = new_progress(interval=5)
    run(line, clock, range(1, 7))
    line.close("done")

    written = capsys.readouterr().err
    assert written.count("t: step 4/10  loss 4.5000  validation 3.2500  500 tokens/s") == 1
    assert "t: step 5" not in written


def test_the_rate_is_that_of_steps_alone(clock, capsys):
    run(new_progress(), clock, range(1, 6))

    assert set(re.findall(r"\S+ tokens/s", capsys.readouterr().err)) == {"500 tokens/s"}


@pytest.mark.parametrize(
    ("done", "steps", "left"),
    [
        # Six steps, and a validation after steps 8 and 10.
        (0, range(1, 5), "0:32 left"),
        # Of a resumed run as well.
        (3, range(4, 5), "0:32 left"),
        # Five steps and both.
        (0, range(1, 6), "0:30 left"),
        # One step, and the last validation.
        (0, range(1, 10), "0:12 left"),
        (0, range(1, 11), "0:00 left"),
    ],
)
def test_the_time_left_counts_the_validations_that_are_due(clock, capsys, done, steps, left):
    run(new_progress(done=done), clock, steps)

    assert capsys.readouterr().err.splitlines()[-1].endswith(left)


def test_long_work_says_every_ten_seconds_how_far_it_is_and_short_work_nothing(clock, caplog):
    done = []
    with caplog.at_level("INFO"):
        for part in told(range(100), "measuring"):
            done.append(part)
            clock.now += 0.5
    assert done == list(range(100))
    assert [record.message for record in caplog.records] == [
        f"measuring: {20 * each} %, 0:{50 - 10 * each:02} left" for each in range(1, 5)
    ]
    caplog.clear()
    with caplog.at_level("INFO"):
        for _ in told(["a", "b"], "writing"):
            clock.now += 4
    assert caplog.text == ""
