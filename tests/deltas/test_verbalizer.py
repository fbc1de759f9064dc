"""How an encoder answers: scores of labels by hand arithmetic, and deltas trained by them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from flax import nnx

import deltas
from deltas import Attached, LoRA, Prompt, Reading, Training, load_backbone, train
from deltas.evaluation import Exam, batch_of, evaluate_each
from deltas.tasks import Example
from deltas.verbalizer import TEMPERATURE, answers, features, label_scores, label_tables, pooled, way

WAYS = ["words", "cosine", "linear"]
READING = Reading(max_input=16, max_target=3, buckets=(12,), decode="rank")
TRAINING = Training(steps=12, batch_size=8, learning_rate=0.05, warmup=0, evaluate_every=6, segment=6, dev_rows=8)
CLS, SEP = 2, 1  # of the toys


def reading(chosen):
    return dataclasses.replace(READING, verbalizer=chosen)


def token(word):
    return {word: i for i, word in enumerate(toy.VOCABULARY)}[word]


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """A BERT with a masked-language head."""
    return load_backbone(toy.write_folder(tmp_path_factory.mktemp("bert"), "bert", num_hidden_layers=1))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A sentence encoder: a BERT without a head."""
    return load_backbone(toy.write_folder(tmp_path_factory.mktemp("headless"), "bert", num_hidden_layers=1, **{toy.HEADLESS: True}))


@pytest.fixture(scope="module")
def two():
    """A task of two labels of one word each."""
    return toy.classify()


@pytest.fixture(scope="module")
def three(two):
    """A task of three labels, one of them of two words."""
    names = {"yes": "yes", "no": "maybe yes"}

    def split(rows):
        return tuple(Example(e.input, ("no" if i % 3 == 0 else names[e.answers[0]],)) for i, e in enumerate(rows))

    return dataclasses.replace(two, name="three", train=split(two.train), dev=split(two.dev), test=split(two.test),
                               labels=("maybe yes", "no", "yes"))


@pytest.fixture(scope="module")
def encoders(masked, bare):
    """By the way of answering: a LoRA attached, and its compiled scores."""
    made = {chosen: Attached.of(masked if chosen == "words" else bare, LoRA(rank=2)) for chosen in WAYS}
    return {chosen: (one, jax.jit(lambda theta, batch, one=one: label_scores(one.module(theta, one.frozen), batch)))
            for chosen, one in made.items()}


def batch_from(backbone, task, chosen, rows=4):
    exam = Exam.of(backbone, task, "test", reading(chosen), rows)
    batch = batch_of(exam.encoded, np.arange(rows), exam.encoded.input_ids.shape[1], 1)
    return exam, {name: jnp.asarray(value) for name, value in {**batch, **exam.encoded.tables}.items()}


def hidden_by_hand(module, texts):
    """The mean hidden state of [cls] text [sep] for each text, in a batch of a fixed width."""
    rows = [[CLS, *map(token, text.split()), SEP] for text in texts]
    ids = np.array([row + [0] * (12 - len(row)) for row in rows])
    mask = (np.arange(12) < np.array([len(row) for row in rows])[:, None]).astype(np.int32)
    states = np.asarray(nnx.jit(lambda module: module(ids, mask))(module), np.float64)
    return np.stack([states[i, : len(row)].mean(0) for i, row in enumerate(rows)])


# ------------------------------------------------------------------ by hand
def test_words_are_log_probabilities_at_the_mask_tokens(masked, three, encoders):
    """s_l is the mean over the label's words of log p(word at its own mask token), as many masks as the longest label has words."""
    one, scores = encoders["words"]
    exam, batch = batch_from(masked, three, "words")
    rows = [[CLS, *map(token, e.input.split()), toy.MASK, toy.MASK, SEP] for e in exam.examples]
    assert [ids[: len(row)].tolist() for ids, row in zip(exam.encoded.input_ids, rows, strict=True)] == rows
    logits = np.asarray(masked.logits(batch), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [[(logp[i, len(row) - 3, token("maybe")] + logp[i, len(row) - 2, token("yes")]) / 2,
                 logp[i, len(row) - 3, token("no")], logp[i, len(row) - 3, token("yes")]] for i, row in enumerate(rows)]
    np.testing.assert_allclose(scores(jnp.asarray(one.theta0), batch), expected, atol=1e-5)


def test_cosine_is_that_of_means_of_hidden_states(bare, three):
    """The inputs' through the delta, without the rows of a prompt; the labels' through the bare backbone."""
    one = Attached.of(bare, Prompt(length=2))
    exam, batch = batch_from(bare, three, "cosine")
    module = one.module(jnp.asarray(one.theta0), one.frozen)
    inputs, labels = hidden_by_hand(module, [e.input for e in exam.examples]), hidden_by_hand(bare.module, three.labels)
    unit = [h / np.linalg.norm(h, axis=1, keepdims=True) for h in (inputs, labels)]
    scores = nnx.jit(label_scores)(module, batch)
    np.testing.assert_allclose(scores, unit[0] @ unit[1].T / TEMPERATURE, rtol=1e-4)


def test_linear_is_a_logistic_regression_on_the_bare_backbone(bare, two, three, encoders):
    """For three labels and for two; fitted on the training rows, in the order of the task's labels."""
    from sklearn.linear_model import LogisticRegression

    one, scores = encoders["linear"]
    for task in (two, three):
        exam, batch = batch_from(bare, task, "linear")
        shown = hidden_by_hand(bare.module, [e.input for e in task.train])
        fitted = LogisticRegression(max_iter=1000).fit(shown, [e.answers[0] for e in task.train])
        expected = fitted.predict_log_proba(hidden_by_hand(bare.module, [e.input for e in exam.examples]))
        order = [list(fitted.classes_).index(label) for label in task.labels]
        np.testing.assert_allclose(jax.nn.log_softmax(scores(jnp.asarray(one.theta0), batch)), expected[:, order], atol=5e-3)


def test_a_label_that_training_never_shows(bare, two):
    """A linear head gives it nothing; with a single label shown, everything is that label."""
    unseen = dataclasses.replace(two, labels=("maybe", "no", "yes"))
    table = label_tables(bare, unseen, reading("linear"))
    assert table["label_bias"][0] < -1e8
    assert (table["label_vectors"][0] == 0).all()
    assert (table["label_vectors"][2] != 0).any()
    same = tuple(Example(e.input, ("no",)) for e in two.train)
    table = label_tables(bare, dataclasses.replace(unseen, train=same), reading("linear"))
    assert np.argmax(table["label_bias"]) == 1
    assert (table["label_vectors"] == 0).all()


def test_features_do_not_depend_on_their_neighbours(bare):
    """More texts than one batch holds, of different lengths: each as if alone."""
    texts = [" ".join(words) for words in toy.texts(np.random.default_rng(0), 70, (1, 9))]
    many = features(bare, texts, READING)
    assert many.shape == (70, 16)
    np.testing.assert_allclose(many[[0, 66, 69]], hidden_by_hand(bare.module, [texts[i] for i in (0, 66, 69)]), atol=1e-5)


def test_means_leave_the_padding_out():
    hidden = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    mask = jnp.array([[1, 1, 0], [1, 1, 1]])
    np.testing.assert_allclose(pooled(hidden, mask)[0], hidden[0, :2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(pooled(hidden.at[0, 2].set(1e6), mask), pooled(hidden, mask), rtol=1e-6)


@pytest.mark.parametrize("chosen", WAYS)
def test_scores_are_the_deltas_own(encoders, three, chosen):
    """A delta changes the scores, padding does not, and what is trained is the delta's parameters alone."""
    one, scores = encoders[chosen]
    _, batch = batch_from(one.backbone, three, chosen)
    theta = jnp.asarray(one.theta0 + 0.3 * np.random.default_rng(1).standard_normal(one.layout.size), jnp.float32)
    given = scores(theta, batch)
    assert np.abs(given - scores(jnp.asarray(one.theta0), batch)).max() > 1e-3
    wide = {**batch, **{name: jnp.pad(batch[name], ((0, 0), (0, 5))) for name in ("input_ids", "attention_mask")}}
    np.testing.assert_allclose(scores(theta, wide), given, atol=1e-4)
    assert all(".attn." in name for name in one.layout.names)


def test_the_loss_and_the_likelihoods_are_those_of_the_softmax_over_the_labels(encoders, three):
    one, scores = encoders["words"]
    exam, batch = batch_from(one.backbone, three, "words")
    theta = jnp.asarray(one.theta0)
    logp = np.asarray(jax.nn.log_softmax(scores(theta, batch)))
    right = [three.labels.index(e.answers[0]) for e in exam.examples]
    assert float(jax.jit(one.loss)(theta, one.frozen, batch)) == pytest.approx(-logp[np.arange(4), right].mean(), rel=1e-5)
    nothing = jnp.zeros((3, 1), jnp.int32)
    np.testing.assert_allclose(jax.jit(one.likelihoods)(theta, one.frozen, batch, nothing, nothing), logp, atol=1e-5)


def test_an_answer_that_is_no_label_has_no_loss(masked, two):
    """It cannot be chosen; a row with several right answers is trained on the first that can."""
    test = (Example("ba be", ("perhaps",)), Example("ba be", ("perhaps", "yes")), Example("ba be", ("no",)), *two.test)
    encoded = Exam.of(masked, dataclasses.replace(two, test=test), "test", reading("words"), 3).encoded
    assert encoded.target_ids[:, 0].tolist() == [0, 1, 0]
    assert encoded.target_lengths.tolist() == [0, 1, 1]


# ------------------------------------------------------------------ many at once, and training
@pytest.mark.parametrize("chosen", ["words", "linear"])
def test_tasks_with_different_numbers_of_labels_in_one_flight(encoders, two, three, chosen):
    one, _ = encoders[chosen]
    exams = [Exam.of(one.backbone, task, "test", reading(chosen), rows) for task, rows in ((two, 8), (three, 5))]
    thetas = one.theta0 + 0.3 * np.random.default_rng(2).standard_normal((2, one.layout.size)).astype(np.float32)
    together = evaluate_each(one, thetas, exams, in_flight=2)
    assert set(together[0].predictions) <= set(two.labels)
    for theta, exam, score in zip(thetas, exams, together, strict=True):
        alone = evaluate_each(one, theta[None], [exam], in_flight=1)[0]
        assert (alone.score, alone.predictions) == (score.score, score.predictions)
        assert alone.loss == pytest.approx(score.loss, rel=1e-5)


@pytest.fixture(scope="module")
def trained(masked, bare, two, three, tmp_path_factory):
    """A bank of both tasks trained together, by the way of answering; made once."""
    made = {}

    def make(chosen):
        backbone = masked if chosen == "words" else bare
        if chosen not in made:
            made[chosen] = train(backbone, [two, three], [LoRA(rank=2)], out=tmp_path_factory.mktemp(chosen), training=TRAINING,
                                 reading=reading(chosen), in_flight=2, test_rows=0)
        return made[chosen]

    return make


@pytest.mark.parametrize("chosen", WAYS)
def test_training_lowers_the_loss(encoders, trained, two, three, chosen):
    """On the training rows, and on the dev rows beside the bare backbone; only the delta is trained, and the bank says how it answers."""
    (one, _), bank = encoders[chosen], trained(chosen)
    exams = [Exam.of(one.backbone, task, "dev", reading(chosen), TRAINING.dev_rows) for task in (two, three)]
    bare = evaluate_each(one, np.stack([one.theta0] * 2), exams, in_flight=2)
    for task, before in zip((two, three), bare, strict=True):
        solution = bank.load("lora", task.name, 0)
        losses = [look["train_loss"] for look in solution.provenance["history"]]
        assert losses[-1] < losses[0]
        assert (solution.scores["dev"], -solution.scores["dev_loss"]) > (before.score, -before.loss)
        assert solution.provenance["answers"] == answers(one.backbone, reading(chosen))
        assert solution.layout == one.layout


def test_a_neighbour_with_longer_labels_does_not_matter_to_training(masked, trained, two, tmp_path):
    """Nor one with more of them: the same solution as alone."""
    together = trained("words").load("lora", two.name, 0)
    alone = train(masked, [two], [LoRA(rank=2)], out=tmp_path, training=TRAINING, reading=reading("words"), in_flight=1,
                  test_rows=0).load("lora", two.name, 0)
    np.testing.assert_allclose(together.vector, alone.vector, atol=1e-4)
    assert together.scores["dev_loss"] == pytest.approx(alone.scores["dev_loss"], rel=1e-3)


# ------------------------------------------------------------------ refusals
def test_the_way_is_words_where_there_is_a_head(masked, bare, refused, monkeypatch):
    assert (way(masked, READING), way(bare, READING)) == ("words", "cosine")
    assert (way(masked, reading("linear")), way(bare, reading("linear"))) == ("linear", "linear")
    with refused("words", "head", bare.name):
        way(bare, reading("words"))
    monkeypatch.setattr(masked.tokenizer, "_special_tokens_map", {**masked.tokenizer._special_tokens_map, "mask_token": None})
    with refused("mask token", masked.name):
        way(masked, READING)


def test_an_encoder_only_chooses_among_labels(bare, two, refused, tmp_path):
    with refused("rank", "generate", bare.name):
        Exam.of(bare, two, "test", Reading())
    with refused("rank", "generate"):
        deltas.train(bare, [two], [LoRA(rank=2)], out=tmp_path / "generate", training=TRAINING)
    with refused("label", toy.copy().name):
        deltas.train(bare, [toy.copy()], [LoRA(rank=2)], out=tmp_path / "copy", training=TRAINING, reading=READING)
    with refused("verbalizer", "mean"):
        Reading(verbalizer="mean")  # pyright: ignore[reportArgumentType]
