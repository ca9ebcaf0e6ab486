"""Soft labels come from classifiers that have not seen the row."""

import numpy as np
import pytest

from training.data import Example
from training.teacher import Teacher, Teachers


class Vectors:
    """Stands in for the sentence encoder, whose weights tests do not download: two meanings and noise."""

    def encode(self, texts: list[str]) -> np.ndarray:
        rng = np.random.default_rng(0)
        meaning = np.array([[3.0, 0.0] if "rob" in text else [0.0, 3.0] for text in texts])
        return np.hstack([meaning, rng.normal(size=(len(texts), 6))]).astype(np.float16)


@pytest.fixture(scope="module")
def labels() -> dict[tuple[str, str], float]:
    unsafe = [Example("s", (f"how to rob shop number {n}",), ("O3",)) for n in range(300)]
    safe = [Example("s", (f"how to open shop number {n}",)) for n in range(300)]
    mislabelled = [Example("s", ("how to rob shop number 999",))]
    teachers = Teachers([*unsafe, *safe, *mislabelled], Vectors())  # type: ignore[arg-type]  # the same method
    return {**teachers.soft_labels(), **teachers.opinions(["please rob a new shop"])}


def test_rows_get_what_their_like_have(labels: dict[tuple[str, str], float]) -> None:
    assert labels["how to rob shop number 7", "user"] > 0.9
    assert labels["how to open shop number 7", "user"] < 0.1


def test_a_row_with_a_wrong_label_is_not_believed(labels: dict[tuple[str, str], float]) -> None:
    assert labels["how to rob shop number 999", "user"] > 0.9


def test_they_have_an_opinion_of_new_texts(labels: dict[tuple[str, str], float]) -> None:
    assert labels["please rob a new shop", "user"] > 0.5


def test_both_classifiers_have_a_say() -> None:
    texts = ["rob a bank", "open a bank"] * 50
    vectors = Vectors().encode(texts).astype(np.float32)
    teacher = Teacher(texts, vectors, np.array([True, False] * 50))
    same_words = teacher.logits(["open a bank"] * 2, vectors[:2])
    assert same_words[0] > same_words[1]
