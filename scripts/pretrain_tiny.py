"""Make the tiny T5 that comes with the package: `python -m scripts.pretrain_tiny --out deltas/data/tiny_t5`, a few minutes on one core.

It learns every skill of the gym from instructions (`right reverse plural 1 cat 2 key …` → `loaves goats pears`), but for the compositions held
out as `unseen_new` and some of `dev`. From a fixed key; the same machine makes the same file. Two choices make it learn in minutes where
T5's own start takes hours: the Muon optimizer (Jordan et al. 2024, as in `optax.contrib`), and relative-position tables that start with one head
looking at the token before, one at the token after, and decoder heads each at one distance back.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltas.files import replacing, write_json
from deltas.tasks import gym

SPECIAL = ("<pad>", "</s>", "<unk>")
INPUT, TARGET = 3 + 2 * gym.CLAUSE * len(gym.SCOPES) + 1, gym.CLAUSE + 1
"""Tokens of every input, and of the longest answer, ends included."""


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Sizes of the model and of its training."""

    d_model: int = 96
    d_ff: int = 192
    heads: int = 6
    layers: int = 2
    vocab_size: int = 128
    steps: int = 3000
    batch_size: int = 64
    learning_rate: float = 5e-3
    warmup: int = 200
    scanned: int = 250
    """Steps on the device between two looks."""
    local: float = 6.0
    """What the relative-position tables start with at the distances that heads look at."""
    hidden: float = 0.15
    """Share of the instruction's words that a blank stands for, reached half-way. So the model learns to guess what it was not told, and at
    the blanks of the gym's tasks all skills are near; without it deltas learn as well, but share far less of a space."""
    seed: int = 0


def words(size: int) -> list[str]:
    """The vocabulary in the order of its ids: special tokens, the gym's words, and T5's extra ids to fill up."""
    known = [*SPECIAL, *gym.vocabulary()]
    return [*known, *(f"<extra_id_{i}>" for i in range(size - len(known)))]


def config_json(settings: Pretraining) -> dict[str, Any]:
    """The `config.json` of a T5 with a tied head."""
    return {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True, "vocab_size": settings.vocab_size,
        "d_model": settings.d_model, "d_kv": settings.d_model // settings.heads, "d_ff": settings.d_ff, "num_heads": settings.heads,
        "num_layers": settings.layers, "num_decoder_layers": settings.layers, "feed_forward_proj": "relu", "tie_word_embeddings": True,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "dropout_rate": 0.0,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0, "torch_dtype": "float16",
    }


def tokenizer_json(settings: Pretraining) -> dict[str, Any]:
    """A word-level `tokenizer.json`: words between spaces, `</s>` at the end as every T5 has it."""
    vocabulary = words(settings.vocab_size)
    special = [{"id": i, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
               for i, word in enumerate(vocabulary) if word in SPECIAL or word.startswith("<extra_id_")]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None,
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [SPECIAL.index("</s>")], "tokens": ["</s>"]}}},
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(vocabulary)}, "unk_token": "<unk>"},
    }


class Rows:
    """Rows of skills as token ids."""

    def __init__(self, skills: Sequence[gym.Skill], vocab_size: int) -> None:
        ids = {word: i for i, word in enumerate(words(vocab_size))}
        self.skills, self.blank = skills, ids[gym.BLANK]
        self.instructions = np.array([[ids[part] for part in skill] for skill in skills], np.int32)
        self.forms = np.array([[ids[word] for word in row] for row in gym.FORMS], np.int32)
        self.nouns = np.array([ids[word] for word in gym.NOUNS], np.int32)
        self.places = np.array([ids[str(i)] for i in range(1, 1 + gym.CLAUSE * len(gym.SCOPES))], np.int32)

    def draw(self, rng: np.random.Generator, rows: int, *, hidden: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [rows, INPUT] and answers [rows, TARGET], each row of a random skill; blanks stand for a share `hidden` of the instruction."""
        nouns, which = gym.draw(rng, rows), rng.integers(len(self.skills), size=rows)
        inputs, answers = np.zeros((rows, INPUT), np.int32), np.zeros((rows, TARGET), np.int32)
        inputs[:, :3] = np.where(rng.random((rows, 3)) < hidden, self.blank, self.instructions[which])
        inputs[:, 3:-1:2], inputs[:, 4:-1:2], inputs[:, -1] = self.places, self.nouns[nouns], SPECIAL.index("</s>")
        for number, skill in enumerate(self.skills):
            mine = np.flatnonzero(which == number)
            made = self.forms[gym.MAPPINGS.index(skill.mapping)][gym.solve(nouns[mine], skill.scope, skill.operation)]
            answers[mine, : made.shape[1]] = made
            answers[mine, made.shape[1]] = SPECIAL.index("</s>")
        return inputs, answers


def pretrain(settings: Pretraining) -> Iterator[tuple[int, Any, float]]:
    """Train; yields (steps done, the module, mean loss since the last) after every `scanned` steps."""
    import jax
    import optax
    from flax import nnx
    from optax.contrib import muon

    graphdef, state = nnx.split(begin(settings))
    rate = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, settings.warmup, settings.steps, 0.02 * settings.learning_rate)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), muon(rate, adam_b2=0.98))

    @jax.jit
    def run(state: Any, moments: Any, inputs: Any, answers: Any) -> tuple[Any, Any, Any]:
        def step(carry: Any, batch: Any) -> Any:
            state, moments = carry
            loss, gradient = jax.value_and_grad(lambda s: loss_and_hits(nnx.merge(graphdef, s), *batch)[0])(state)
            updates, moments = optimizer.update(gradient, moments, state)
            return (optax.apply_updates(state, updates), moments), loss

        (state, moments), losses = jax.lax.scan(step, (state, moments), (inputs, answers))
        return state, moments, losses.mean()

    rows, rng = Rows([skill for skill in gym.skills() if skill.met], settings.vocab_size), np.random.default_rng(settings.seed)
    moments = optimizer.init(state)
    for done in range(settings.scanned, settings.steps + 1, settings.scanned):
        hidden = settings.hidden * min(1.0, 2 * done / settings.steps)  # the skills first, guessing later
        drawn = rows.draw(rng, settings.scanned * settings.batch_size, hidden=hidden)
        batches = [x.reshape(settings.scanned, settings.batch_size, -1) for x in drawn]
        state, moments, loss = run(state, moments, *batches)
        yield done, nnx.merge(graphdef, state), float(loss)


def begin(settings: Pretraining) -> Any:
    """A T5 at T5's own initial scales, drawn by numpy tensor by tensor under the Hugging Face names: the same with every version of JAX.

    The relative-position tables start with heads that look at one distance: −1 and +1 in the encoder, 0, −1, … in the decoder.
    """
    import jax.numpy as jnp
    from flax import nnx

    from deltas.backbones import t5
    from deltas.backbones.transformer import Transformer

    config, rng = t5.config(config_json(settings)), np.random.default_rng(settings.seed)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0))))
    flat = {".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)}
    d, filled = settings.d_model, []
    for ours in sorted(t5.names(config).values()):
        path, variable = flat[ours]
        value = rng.standard_normal(variable.shape)
        if ours.endswith("kernel"):
            value *= variable.shape[0] ** -0.5 * (config.d_kv**-0.5 if ours.endswith("q.kernel") else 1.0)
        elif ours.endswith("positions.table"):
            value *= d**-0.5
            near = [(1, 0), (config.relative_attention_num_buckets // 2 + 1, 1)]  # the buckets of −1 and +1, half of them each way
            for bucket, head in near if ours.startswith("encoder") else [(i, i) for i in range(min(TARGET, settings.heads))]:
                value[bucket, head] += settings.local
        elif ours.endswith("scale"):
            value[:] = 1.0
        filled.append((path, variable.replace(jnp.asarray(value, jnp.float32))))
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def loss_and_hits(module: Any, inputs: Any, answers: Any) -> tuple[Any, Any]:
    """Mean cross-entropy of the answers' tokens [B, TARGET], and which rows are right to the last token [B]."""
    import jax.numpy as jnp
    import optax

    shifted = jnp.pad(answers, ((0, 0), (1, 0)))[:, :-1]
    logits = module(inputs, jnp.ones_like(inputs), shifted)
    kept = answers != 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, answers) * kept
    return losses.sum() / kept.sum(), jnp.all((logits.argmax(-1) == answers) | ~kept, axis=1)


def exact_match(module: Any, skills: Sequence[gym.Skill], vocab_size: int, *, rows: int = 1000, hidden: float = 0.0) -> float:
    """The share of held-out rows answered right (each token given the right ones before it, which is the same for a whole row)."""
    from flax import nnx

    batch = Rows(skills, vocab_size).draw(np.random.default_rng(12345), rows, hidden=hidden)
    return float(nnx.jit(loss_and_hits)(module, *batch)[1].mean())


def save(module: Any, settings: Pretraining, folder: Path) -> None:
    """The Hugging Face folder: config.json, model.safetensors in float16, tokenizer.json, tokenizer_config.json."""
    from flax import nnx
    from safetensors.numpy import save as to_bytes

    from deltas.backbones import t5

    values = {".".join(map(str, path)): np.asarray(variable[...], np.float16) for path, variable in nnx.to_flat_state(nnx.state(module))}
    tensors = {theirs: np.ascontiguousarray(values[ours].T if ours.endswith("kernel") else values[ours])
               for theirs, ours in t5.names(module.config).items()}
    with replacing(folder / "model.safetensors") as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata={"format": "pt"}))
    write_json(folder / "config.json", config_json(settings))
    with replacing(folder / "tokenizer.json") as temporary:
        temporary.write_text(json.dumps(tokenizer_json(settings), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "model_max_length": 512})


def main(out: Path, settings: Pretraining) -> None:
    """Train, write the folder, and print what the model can do on held-out rows."""
    met = [skill for skill in gym.skills() if skill.met]
    new = [skill for skill in gym.skills() if not skill.met]
    began, module = time.time(), None
    for done, module, loss in pretrain(settings):
        print(f"step {done:5}  loss {loss:.4f}  exact match {exact_match(module, met, settings.vocab_size):.3f} met, "
              f"{exact_match(module, new, settings.vocab_size):.3f} never met  {time.time() - began:.0f} s", flush=True)
    save(module, settings, out)
    print(f"\nexact match on held-out rows, {'with instruction':>26}{'blank':>20}\n{'':<16}{'met':>12}{'never met':>12}{'met':>12}")
    for position, factor in enumerate(("scope", "operation", "mapping")):
        for value in dict.fromkeys(skill[position] for skill in gym.skills()):
            mine, others = ([s for s in skills if s[position] == value] for skills in (met, new))
            scores = [exact_match(module, mine, settings.vocab_size), exact_match(module, others, settings.vocab_size) if others else None,
                      exact_match(module, mine, settings.vocab_size, hidden=1.0)]
            print(f"{factor:<10}{value:<10}" + "".join(f"{'–' if s is None else format(s, '.3f'):>12}" for s in scores))


if __name__ == "__main__":
    import tyro

    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
