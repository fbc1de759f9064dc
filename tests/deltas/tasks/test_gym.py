"""The gym's tasks by their rules, its groups by what they promise, and the tiny T5 that comes with it."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from deltaspace.pretrain_tiny import INPUT, TARGET, Pretraining, Rows, config_json, exact_match, pretrain, save, tokenizer_json

import deltas
from deltas.backbones.loading import find_folder
from deltas.evaluation import Exam
from deltas.tasks import Reading, chance
from deltas.tasks.gym import FAR, FORMS, KINDS, MAPPINGS, NOUNS, OPERATIONS, SCOPES, draw, gym, gym_groups, skills, solve, text, vocabulary

READING = Reading(max_input=INPUT, max_target=TARGET)
SMALL = Pretraining(d_model=16, d_ff=16, heads=4, steps=4, warmup=1, scanned=2, batch_size=4)


@pytest.fixture(scope="module")
def tiny():
    return deltas.load_backbone("tiny")


def by_hand(row: str, name: str) -> str:
    """The answer read off the text itself, without the generator's arrays."""
    scope, operation, mapping = name.split(".")
    nouns = row.split()[4::2]
    clause = nouns[3 * SCOPES.index(scope) :][:3]
    a, b, c = clause
    chosen = {"copy": clause, "reverse": clause[::-1], "first": [a], "last": [c], "rotate": [b, c, a], "second": [b],
              "largest": [max(clause, key=NOUNS.index)], "smallest": [min(clause, key=NOUNS.index)]}[operation]
    return " ".join(FORMS[MAPPINGS.index(mapping)][NOUNS.index(noun)] for noun in chosen)


def test_answers_follow_the_rules():
    names = [skill.name for skill in skills()]
    for task in gym(names=names, rows=(6, 2, 2)):
        for example in (*task.train, *task.dev, *task.test):
            assert example.answers == (by_hand(example.input, task.name),)


def test_a_row_reads_as_documented():
    nouns = np.array([[NOUNS.index(n) for n in ("cat", "key", "plum", "hat", "ant", "saw", "pear", "goat", "loaf")]])
    assert text(nouns[0]) == "_ _ _ 1 cat 2 key 3 plum 4 hat 5 ant 6 saw 7 pear 8 goat 9 loaf"
    assert FORMS[MAPPINGS.index("plural")][solve(nouns, "right", "reverse")].tolist() == [["loaves", "goats", "pears"]]


def test_nouns_of_a_row_differ():
    nouns = draw(np.random.default_rng(0), 500)
    assert all(len(set(row)) == 9 for row in nouns.tolist())
    assert np.bincount(nouns.flatten()).min() > 0


def test_mappings_never_agree():
    columns = [set(column) for column in FORMS.tolist()]
    same, plural, kind, french, partner = columns
    assert same == partner == set(NOUNS)
    assert kind == set(KINDS)
    for a, b in itertools.combinations((same, plural, kind, french), 2):
        assert not a & b
    pairs = dict(zip(NOUNS, FORMS[MAPPINGS.index("partner")].tolist(), strict=True))
    assert all(pairs[other] == noun != other for noun, other in pairs.items())


def test_same_arguments_same_tasks():
    once, again = gym("dev", rows=(20, 5, 5)), gym("dev", rows=(20, 5, 5))
    assert [t.fingerprint for t in once] == [t.fingerprint for t in again]
    other = gym("dev", rows=(20, 5, 5), seed=1)
    assert all(a.fingerprint != b.fingerprint for a, b in zip(once, other, strict=True))


def test_splits_share_no_row():
    task = gym(names=["left.copy.same"])[0]
    assert [len(task.split(s)) for s in ("train", "dev", "test")] == [512, 64, 128]
    inputs = [e.input for e in (*task.train, *task.dev, *task.test)]
    assert len(set(inputs)) == len(inputs)


def test_groups_are_disjoint_and_cover_their_factors():
    groups = gym_groups()
    names = [name for members in groups.values() for name in members]
    assert len(set(names)) == len(names)
    assert len(groups["source"]) >= 36
    assert len(groups["unseen_met"]) + len(groups["unseen_new"]) >= 8
    sources = [name.split(".") for name in groups["source"]]
    for values in (SCOPES, OPERATIONS, MAPPINGS):
        count = Counter(part for name in sources for part in name)
        assert all(count[value] >= 5 for value in values)
    for group in ("dev", "unseen_met", "unseen_new"):
        for scope, operation, mapping in (name.split(".") for name in groups[group]):
            assert operation in OPERATIONS
            assert any(s == scope and o == operation for s, o, _ in sources), "its clause and operation stand together in a source"
            assert any(m == mapping for _, _, m in sources)
    assert all(name.split(".")[1] in FAR for name in groups["far"])
    assert not any(part in FAR for name in sources for part in name)


def test_never_met_means_never_drawn():
    met = {skill.name: skill.met for skill in skills()}
    groups = gym_groups()
    assert not any(met[name] for name in groups["unseen_new"])
    assert all(met[name] for group in ("source", "unseen_met", "far") for name in groups[group])


def test_no_task_is_answered_by_a_constant():
    for group in gym_groups():
        for task in gym(group):
            assert chance(task, "test") < 0.5, task.name


def test_one_word_kinds_are_classes(tiny):
    task = gym(names=["left.last.kind"], rows=(40, 10, 10))[0]
    assert (task.metric, task.labels) == ("accuracy", KINDS)
    assert Exam.of(tiny, task, "dev", Reading(max_input=INPUT, max_target=TARGET, decode="rank")).labels is not None


def test_refusals(refused):
    with refused("nowhere", "source"):
        gym("nowhere")  # type: ignore[arg-type]
    with refused("left.fly.same"):
        gym(names=["left.fly.same"])
    with refused("left.rotate.plural", "source"):
        gym("source", names=["left.rotate.plural"])
    with refused("(4, 0, 4)"):
        gym("dev", rows=(4, 0, 4))


# ------------------------------------------------------------ the tiny T5
def test_shipped_files_belong_to_the_gym():
    folder = find_folder("tiny")
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert stored == tokenizer_json(Pretraining())
    assert json.loads((folder / "config.json").read_text()) == config_json(Pretraining())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 8e6


def test_tokenizer_knows_every_word(tiny):
    words = " ".join(vocabulary())
    ids = tiny.tokenizer(words)["input_ids"]
    assert ids[-1] == tiny.config.eos_token_id
    assert tiny.tokenizer.unk_token_id not in ids
    assert tiny.tokenizer.decode(ids, skip_special_tokens=True) == words


def test_pretraining_rows_are_what_the_tokenizer_reads(tiny):
    task = gym(names=["middle.largest.french"], rows=(8, 1, 1))[0]
    exam = Exam.of(tiny, task, "train", READING)
    assert (exam.encoded.input_ids.shape[1], exam.encoded.target_ids.shape[1]) == (INPUT, TARGET)
    skill = next(s for s in skills() if s.name == task.name)
    inputs, answers = Rows([skill], 128).draw(np.random.default_rng(0), 50, hidden=1.0)
    for x, y in zip(inputs, answers, strict=True):
        row = tiny.tokenizer.decode(x, skip_special_tokens=True)
        assert tiny.tokenizer(row)["input_ids"] == x.tolist()
        assert tiny.tokenizer.decode(y, skip_special_tokens=True) == by_hand(row, task.name)


def test_it_has_the_skills_with_instruction_alone(tiny):
    met, new = ([s for s in skills() if s.met is which] for which in (True, False))
    assert exact_match(tiny.module, met, 128, rows=400) > 0.95
    assert exact_match(tiny.module, new, 128, rows=400) > 0.9
    assert exact_match(tiny.module, [s for s in skills() if s.group], 128, rows=400, hidden=1.0) < 0.15


def test_pretraining_is_repeatable_and_saves_a_backbone(tmp_path):
    runs = [list(pretrain(SMALL))[-1] for _ in range(2)]
    assert [run[0] for run in runs] == [4, 4]
    assert runs[0][2] == runs[1][2] < 20
    for number, (_, module, _) in enumerate(runs):
        save(module, SMALL, tmp_path / str(number))
    files = [(tmp_path / str(n) / "model.safetensors").read_bytes() for n in range(2)]
    assert files[0] == files[1]
    assert deltas.load_backbone(tmp_path / "0").config.d_model == 16


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rate"), [
    (deltas.LoRA(rank=4), 1e-2), (deltas.Adapter(bottleneck=16), 1e-2), (deltas.Prefix(length=10), 5e-2)])
def test_every_type_learns_which_skill_is_wanted(tiny, tmp_path, kind, rate):
    tasks = gym(names=["right.reverse.french", "left.smallest.plural"])
    training = deltas.Training(steps=100, learning_rate=rate, evaluate_every=100)
    bank = deltas.train(tiny, tasks, [kind], out=tmp_path, training=training, reading=READING)
    assert min(bank.scores(kind.label, task.name, 0)["test"] for task in tasks) > 0.85


@pytest.mark.parity
def test_transformers_gives_the_same_logits_and_answers(tiny):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(find_folder("tiny"), dtype=torch.float32).eval()
    texts = ["left copy plural 1 ant 2 bee 3 cat 4 key 5 saw 6 nut 7 plum 8 hat 9 hen", "_ _ 1 ant"]
    batch = tiny.tokenizer(texts, padding=True, return_tensors="np")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")} | {"decoder_input_ids": np.array([[0, 30, 31], [0, 50, 60]])}
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(x) for name, x in batch.items()}).logits.numpy()
        out = theirs.generate(**{n: torch.tensor(batch[n][:1]) for n in ("input_ids", "attention_mask")}, max_new_tokens=TARGET)
    np.testing.assert_allclose(np.asarray(tiny.logits(batch)), expected, atol=1e-4)
    assert tiny.tokenizer.decode(out[0], skip_special_tokens=True) == "ants bees cats"
