"""The yardstick: logistic regression on TF-IDF of words, trained on the guard's own rows, measured on the same files.

    python -m training.baseline --data ../shared/data xstest.jsonl.gz ...

Knows: judged turns, labels.
Never knows: the guard, tokens, context.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from guardhouse.evaluation.datasets import Source, load_dataset
from training.data import Example, load_examples
from training.scoring import summarise

Score = Callable[[Sequence[str]], NDArray[np.float32]]
INVERSE_PENALTY = 4.0


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Folder with train/ and eval/."
)
def main(files: Sequence[Path], data: Path) -> None:
    """Train on DATA's training rows and print the numbers of every labelled FILE."""
    score = fit(load_examples(data)[0])
    for path in files:
        examples = load_dataset(Source.parse(str(path))).examples
        scores = score([example.conversation.judged.content for example in examples])
        print(f"{path.name}: {summarise(scores, [example.is_unsafe for example in examples])}", flush=True)


def fit(examples: Sequence[Example]) -> Score:
    """A row that training sees several times weighs as much."""
    counts = Counter((example.turns[-1], bool(example.codes)) for example in examples)
    texts, labels = zip(*counts, strict=True)
    vectorizer = TfidfVectorizer(min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=300)
    model.fit(vectorizer.fit_transform(texts), labels, sample_weight=list(counts.values()))

    def score(unseen: Sequence[str]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = model.predict_proba(vectorizer.transform(unseen))[:, 1].astype(np.float32)
        return probabilities

    return score


if __name__ == "__main__":
    main()
