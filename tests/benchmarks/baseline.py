"""A well-regularised logistic regression on the very features and split of a training set: what a head must beat.

    python tests/benchmarks/baseline.py STORE TRAINING_SET [LAYER ...]          (needs scikit-learn)

Multinomial, L2, standardised by train, majority labels; the penalty is chosen on validation, test is scored once.
Prints one line.
"""

from __future__ import annotations

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression

import ferstore
from ferstore.train.data import load_training_data
from ferstore.train.moments import train_moments
from ferstore.train.reader import Reader

PENALTIES = 10.0 ** np.arange(-5.0, 0.5, 0.5)


def main(url: str, name: str, layers: tuple[str, ...]) -> None:
    store = ferstore.open(url)
    data = load_training_data(
        store.store, store.store.pin(), store.training_set(name), fold=0, layers=layers, views=("identity",)
    )
    moments = train_moments(data)
    reader = Reader(data.layers, data.examples())
    items = np.arange(data.items)
    [batch] = reader.once(items, len(items))
    x = np.concatenate([(batch.features[n] - moments[n].mean) / moments[n].deviation for n in layers], axis=1)
    reader.close()
    parts = {part: data.parts == part for part in ("train", "validation", "test")}

    def fitted(c: float) -> LogisticRegression:
        return LogisticRegression(C=c, max_iter=2000).fit(x[parts["train"]], data.labels[parts["train"]])

    def accuracy(model: LogisticRegression, part: str) -> float:
        return float((model.predict(x[parts[part]]) == data.labels[parts[part]]).mean())

    models = {c: fitted(c) for c in PENALTIES}
    best = max(models, key=lambda c: accuracy(models[c], "validation"))
    scores = {part: 100 * accuracy(models[best], part) for part in ("validation", "test")}
    print(
        f"{name}: logistic regression on {'+'.join(layers)}, C {best:.0e}: validation {scores['validation']:.1f} %, "
        f"test {scores['test']:.1f} %; {parts['train'].sum()} train, {parts['test'].sum()} test items"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], tuple(sys.argv[3:]) or ("pool_3",))
