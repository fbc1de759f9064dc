"""The seven metrics of the CrossFit benchmark, and the score of an uninformed answer.

A metric maps predictions and, for each of them, one or more references to a number in [0, 1], or [−1, 1] for the two correlations.
With several references a row counts its best one. scikit-learn, scipy and rouge-score are imported when first needed.
"""

import collections
import difflib
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deltas.errors import InputError

if TYPE_CHECKING:
    from deltas.tasks.task import Task

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], float]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _folded(text: str) -> str:
    return text.strip().lower()


def squad_words(text: str) -> list[str]:
    """The words that SQuAD compares: lower case, without punctuation and without the articles a, an, the.

    Where nothing is left ("> }", "a"), the words as they stand: otherwise every such answer would equal every other and the empty one.
    """
    words = [word for word in text.lower().translate(_PUNCTUATION).split() if word not in ("a", "an", "the")]
    return words or text.lower().split()


def _mean_of_best(row: Callable[[str, str], float], predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    best = [max(row(p, r) for r in several) for p, several in zip(predictions, references, strict=True)]
    return float(sum(best) / len(best))


def accuracy(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions equal to a reference, apart from case and outer blanks."""
    return _mean_of_best(lambda p, r: float(_folded(p) == _folded(r)), predictions, references)


def exact_match(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Share of predictions equal to a reference after SQuAD's normalisation (`squad_words`).

    Source: Rajpurkar et al., EMNLP 2016; we depart where the normalisation leaves nothing of an answer.
    """
    return _mean_of_best(lambda p, r: float(squad_words(p) == squad_words(r)), predictions, references)


def qa_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean overlap of words, F1 = 2·common / (words predicted + words expected), after SQuAD's normalisation.

    Source: Rajpurkar et al., EMNLP 2016.
    """

    def row(prediction: str, reference: str) -> float:
        ours, theirs = squad_words(prediction), squad_words(reference)
        common = (collections.Counter(ours) & collections.Counter(theirs)).total()
        return 2 * common / max(len(ours) + len(theirs), 1)

    return _mean_of_best(row, predictions, references)


def rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean F-measure of the longest common subsequence of words (ROUGE-L, no stemming), by rouge-score.

    Its own splitting keeps only the letters a to z; ours keeps every script's, and agrees with it on English.
    Source: Lin, ACL workshop 2004.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import Tokenizer

    class Words(Tokenizer):
        def tokenize(self, text: str) -> list[str]:
            return re.findall(r"[^\W_]+", text.lower())

    scorer = RougeScorer(["rougeL"], tokenizer=Words())
    return _mean_of_best(lambda p, r: scorer.score(r, p)["rougeL"].fmeasure, predictions, references)


def _classes(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[str], list[str]]:
    """(expected, predicted, the labels expected anywhere); predictions outside those labels become one class of their own, "".

    A row with several references expects the one that was predicted, or else the first.
    """
    expected, predicted = [], []
    for prediction, several in zip(predictions, references, strict=True):
        prediction, several = _folded(prediction), [_folded(r) for r in several]
        expected.append(prediction if prediction in several else several[0])
        predicted.append(prediction)
    labels = sorted(set(expected))
    return expected, [p if p in set(labels) else "" for p in predicted], labels


def classification_f1(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Macro F1 over the labels that the references use; apart from case and outer blanks.

    Any other prediction is a miss of the expected label, and no class of its own to be averaged over.
    """
    from sklearn.metrics import f1_score

    expected, predicted, labels = _classes(predictions, references)
    return float(f1_score(expected, predicted, labels=labels, average="macro", zero_division=0))  # pyright: ignore[reportArgumentType]


def matthews(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Matthews correlation in [−1, 1] (several classes: Gorodkin's R_K); 0 where predictions or references are constant.

    Predictions outside the references' labels form one further class, which is never right.
    """
    from sklearn.metrics import matthews_corrcoef

    expected, predicted, _ = _classes(predictions, references)
    if len(set(expected)) < 2 or len(set(predicted)) < 2:
        return 0.0  # scikit-learn says so too, with a warning
    return float(matthews_corrcoef(expected, predicted))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def pearson(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Pearson correlation in [−1, 1] with the first references, read as numbers.

    A prediction that is no finite number counts as 0.0. Where predictions or references are constant the score is 0.

    Raises:
        InputError: a reference is no finite number.
    """
    from scipy.stats import pearsonr

    expected = [_number(several[0]) for several in references]
    if None in expected:
        stray = references[expected.index(None)][0]
        raise InputError(f"expected numbers as answers of a task scored by pearson, got {stray!r}; choose another metric")
    given = [_number(p) or 0.0 for p in predictions]
    if len(set(given)) < 2 or len(set(expected)) < 2:
        return 0.0
    value = float(pearsonr(expected, given)[0])  # pyright: ignore[reportArgumentType]
    return value if math.isfinite(value) else 0.0


METRICS: dict[str, Metric] = {
    metric.__name__: metric for metric in (accuracy, classification_f1, exact_match, qa_f1, rouge_l, pearson, matthews)
}
OF_CLASSES = ("classification_f1", "matthews")
"""Metrics of tasks whose answers are labels."""


def check_metric(name: str, task: str) -> str:
    """The name, if it is in `METRICS`; otherwise `InputError` naming the nearest one."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0)[0]
        raise InputError(f"expected a metric for task {task} among {', '.join(METRICS)}, got {name!r}; did you mean {near!r}?")
    return name


def chance(task: "Task", split: str, rows: int | None = None) -> float:
    """The score on the first `rows` rows of a split (None: all) of always giving the most frequent training answer.

    That is what an uninformed answer is worth. Ties go to the answer seen first.
    """
    majority = collections.Counter(example.answers[0] for example in task.train).most_common(1)[0][0]
    examples = task.split(split)[:rows]
    return METRICS[task.metric]([majority] * len(examples), [example.answers for example in examples])
