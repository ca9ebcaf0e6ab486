"""Thresholds for a target, and what they promise."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from evaluation.made import separable
from hypothesis import given
from hypothesis import strategies as st

from guardhouse.errors import InputError
from guardhouse.evaluation.calibration import choose_threshold, threshold_for_fpr, threshold_for_recall

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.5, 0.9, 1.0]), st.booleans()), min_size=2, max_size=40)


@given(ROWS, st.floats(0.01, 0.99))
def test_the_target_is_met_on_the_rows_themselves_and_no_other_threshold_is_better(
    rows: list[tuple[float, bool]], target: float
) -> None:
    scores, labels = np.array([score for score, _ in rows]), np.array([label for _, label in rows])
    labels[0], labels[1] = True, False
    strict, lax = threshold_for_fpr(scores, labels, target), threshold_for_recall(scores, labels, target)
    for candidate in np.unique(scores):
        fpr, recall = (scores[~labels] >= candidate).mean(), (scores[labels] >= candidate).mean()
        assert fpr > target or candidate >= strict, "no lower threshold meets the rate"
        assert recall < target or candidate <= lax, "no higher threshold meets the recall"
    assert (scores[labels] >= lax).mean() >= target - 1e-9
    assert (scores[~labels] >= strict).mean() <= target + 1e-9 or strict == 1.0


def test_what_is_promised_is_on_average_what_new_rows_show() -> None:
    new_scores, new_labels = (np.array(column) for column in separable(60_000, seed=99))
    excess = []
    for seed in range(20):
        scores, labels = (np.array(column) for column in separable(600, seed=seed))
        choice = choose_threshold(scores, labels, target_fpr=0.05)
        flagged = new_scores >= choice.threshold
        excess.append([choice.fpr - flagged[~new_labels].mean(), choice.recall - flagged[new_labels].mean()])
    assert np.abs(np.mean(excess, axis=0)).max() < 0.02


def test_too_few_rows_are_refused() -> None:
    scores, labels = (np.array(column) for column in separable(30))
    with pytest.raises(InputError, match="20 safe and 10 unsafe rows are too few"):
        choose_threshold(scores, labels, target_recall=0.9)


def test_the_command_writes_a_settings_file(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    lines = [f"What is {number} plus one?,safe\nI will kill you {number} times,unsafe\n" for number in range(25)]
    rows.write_text("text,label\n" + "".join(lines))
    output = tmp_path / "guard.toml"
    command = [sys.executable, "-m", "guardhouse.cli", "calibrate", str(rows), "--threads", "1"]
    done = subprocess.run(
        [*command, "--target-recall", "0.9", "-o", str(output)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "from 25 safe and 25 unsafe rows" in done.stdout
    assert 0 < tomllib.loads(output.read_text())["threshold"] <= 1
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "give --target-fpr or --target-recall" in refused.stderr
