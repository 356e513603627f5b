"""Do the features mean something? A linear classifier on pool_3 against always answering the commonest class.

    python tests/benchmarks/linear_probe.py STORE [DATASET]

Ridge regression onto one-hot majority labels, standardised by the training part; the penalty is chosen on the
validation part, the test part is scored once. Prints one line.
"""

from __future__ import annotations

import sys

import numpy as np

import ferstore

QUERY = """
    select official_split as part, label, pool_3 from features
    where dataset = '{}' and label is not null and pool_3 is not null order by item_id
"""


def main(url: str, dataset: str) -> None:
    rows = ferstore.open(url).sql(QUERY.format(dataset)).numpy()
    part, label, x = rows["part"], rows["label"], rows["pool_3"].astype(np.float64)
    classes = sorted(set(label))
    y = np.array([classes.index(name) for name in label])
    train, validation, test = (part == name for name in ("train", "validation", "test"))
    mean, deviation = x[train].mean(0), x[train].std(0)
    x = (x - mean) / np.where(deviation > 0, deviation, 1)
    targets = np.eye(len(classes))[y[train]]
    offset = targets.mean(0)
    u, s, vt = np.linalg.svd(x[train], full_matrices=False)
    projected = u.T @ (targets - offset)

    def accuracy(penalty: float, where: np.ndarray) -> float:
        weights = vt.T @ (projected * (s / (s**2 + penalty))[:, None])
        return float(((x[where] @ weights + offset).argmax(1) == y[where]).mean())

    best = max(10.0 ** np.arange(1, 7), key=lambda penalty: accuracy(penalty, validation))
    commonest = np.bincount(y[train]).argmax()
    always = float((y[test] == commonest).mean())
    found = accuracy(best, test)
    print(
        f"{dataset}: linear on pool_3 {100 * found:.1f} %, always {classes[commonest]} {100 * always:.1f} %, "
        f"{100 * (found - always):+.1f} points; {train.sum()} train, {test.sum()} test items, penalty {best:g}"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "sample")
