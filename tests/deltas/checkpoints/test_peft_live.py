"""With the real PEFT: what it saves computes the same here, and what is written here computes the same there."""

import warnings

import foreign
import numpy as np
import pytest
from foreign import BARE, CAUSAL, ONE, PEFT, SEQ2SEQ, T5, Case

import deltas
from deltas.checkpoints import load_peft, save_peft
from deltas.checkpoints.solutions import parameters_of, solution_of
from deltas.types import IA3, Full, LoRA, Prefix, Prompt, Together

pytestmark = pytest.mark.parity


@pytest.fixture(autouse=True)
def real_peft():
    pytest.importorskip("peft")


def trained(backbone, config, seed=0):
    """A solution as training leaves it: nothing of it is neutral, and no two sites share anything."""
    start = deltas.Attached.of(backbone, config)
    rng = np.random.default_rng(seed)
    parameters = {name: np.asarray(value) + 0.3 * rng.standard_normal(value.shape).astype(np.float32)
                  for name, value in start.layout.unflatten(start.theta0).items()}
    return solution_of(backbone, config, parameters, task="t", seed=0, provenance={})


@pytest.mark.parametrize("name", ["t5-lora", "bare-dora", "llama-dora", "gpt2-lora", "llama-prefix", "bart-prefix-odd", "t5-prompt", "bert-ia3"])
def test_from_peft(name, backbones, tmp_path):
    """Random adapters made now, not stored."""
    case = PEFT[name]
    theirs, _ = foreign.make_peft(case, tmp_path / f"{name}-live")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        solution = load_peft(tmp_path / f"{name}-live", backbones(case))
    foreign.agree(case.kind, foreign.logits(backbones(case), solution), theirs)


GPT2 = Case("gpt2", "", {"n_layer": 1}, CAUSAL)
OURS = {
    "lora": (Case("t5", "", T5, SEQ2SEQ), LoRA(rank=3, alpha=5, sites=("q", "ff.out", "cross.k"), rank_pattern=(("ff.out", 2),),
                                               alpha_pattern=(("encoder.*.q", 7.0),))),
    "rslora": (Case("llama", "", ONE, CAUSAL), LoRA(rank=3, rslora=True, sites=("k", "gate"))),
    "dora": (Case("bert", "", ONE, {}), LoRA(rank=2, dora=True, sites=("v", "o", "head_dense"))),
    "fused": (GPT2, LoRA(rank=2, alpha=3, sites=("q", "k", "v", "ff.up"))),
    "fused in part": (GPT2, LoRA(rank=2, alpha=3, sites=("q", "v"), rslora=True, rank_pattern=(("v", 5),), alpha_pattern=(("q", 11.0),))),
    "fused dora": (GPT2, LoRA(rank=2, dora=True, sites=("q", "k", "v"))),
    "ia3": (Case("llama", "", ONE, CAUSAL), IA3()),
    "ia3 of a fused module": (GPT2, IA3()),
    "ia3 with ends like others": (Case("bert", "", ONE, {}), IA3(sites=("q", "o", "ff.out"), inputs=("o",))),
    "prefix": (Case("llama", "", {}, CAUSAL), Prefix(length=3, start="normal", shift=True)),
    "prefix of a network": (GPT2, Prefix(length=3, bottleneck=2, shift=True)),
    "prefix of an encoder": (Case("bert", "", BARE, {}), Prefix(length=2, start="normal", shift=True)),
    "prefix of one layer": (Case("t5", "", T5, SEQ2SEQ), Prefix(length=3, start="normal", sites=("decoder.*.attn",))),
    "prompt": (Case("bart", "", {"encoder_layers": 1}, SEQ2SEQ), Prompt(length=3, start="normal")),
    "norms": (Case("bert", "", ONE, {}), Full(sites=("attn_norm", "encoder_embed_norm"))),
}


@pytest.mark.parametrize("name", OURS)
def test_to_peft(name, backbones, tmp_path):
    """PEFT reads what is written here, all of it, and its model answers the same."""
    case, config = OURS[name]
    backbone = backbones(case)
    solution = trained(backbone, config)
    save_peft(solution, tmp_path / "out", backbone)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing.*|.*unexpected.*|.*not match.*|.*did not.*")
        theirs = foreign.read_back(case, tmp_path / "out")
    foreign.agree(case.kind, foreign.logits(backbone, solution), theirs)
    plain = foreign.real(case.kind, np.asarray(backbone.logits(foreign.batch(case.kind))))
    assert np.abs(plain - foreign.real(case.kind, theirs)).max() > 0.03


@pytest.mark.parametrize(("case", "config"), [
    (Case("t5", "", T5, SEQ2SEQ), LoRA(rank=3, sites=("q", "ff.out"))),
    (GPT2, Full(sites=("decoder.0.attn.q", "ff.up"), label="weights")),
    (Case("llama", "", ONE, CAUSAL), IA3()),
    (Case("llama", "", ONE, CAUSAL), LoRA(rank=2, dora=True, sites=("k", "ff.out"))),
    (GPT2, Together(parts=(LoRA(rank=2, sites=("q",)), LoRA(rank=1, sites=("v", "q"), label="more")))),
], ids=["lora", "full", "ia3", "dora", "together"])
def test_any_difference_to_peft(case, config, backbones, tmp_path):
    """All of its energy, as a LoRA: PEFT's model answers the same."""
    backbone = backbones(case)
    if isinstance(config, Full):  # without its biases, which are no LoRA
        solution = trained(backbone, config)
        weights = {name: value * (0 if name.endswith("bias") else 0.3) for name, value in parameters_of(solution).items()}
        solution = solution_of(backbone, config, weights, task="t", seed=0, provenance={})
    else:
        solution = trained(backbone, config)
    save_peft(solution, tmp_path / "out", backbone, energy=1.0)
    foreign.agree(case.kind, foreign.logits(backbone, solution), foreign.read_back(case, tmp_path / "out"))
