"""Classes, labels and probabilities drawn by a seed, for more than one file of tests."""

import numpy as np


def multiclass(seed, n=300, k=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[truth]
    probs = np.exp(logits)
    return truth, probs / probs.sum(1, keepdims=True)


def softmax(logits):
    exp = np.exp(logits)
    return exp / exp.sum(axis=1, keepdims=True)


def noisy(n=3000, classes=4, noise=0.2, seed=0):
    """True classes, labels of which a share is wrong, and honest probabilities of the truth."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    wrong = random.random(n) < noise
    labels = np.where(wrong, (truth + random.integers(1, classes, n)) % classes, truth)
    probs = softmax(3 * np.eye(classes)[truth] + random.standard_normal((n, classes)))
    return truth, labels, probs
