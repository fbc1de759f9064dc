"""Checkpoints made by the real PEFT and `adapters`, with what their models answer: live, or out of the golden files.

The golden files hold each checkpoint whole (configuration, tensors) and the logits; they are made anew by
`DELTASPACE_REGENERATE=1 pytest tests/deltas/checkpoints` with torch and peft here, and for AdapterHub with the path of a Python that has
`adapters` in DELTASPACE_ADAPTERS_PYTHON. The adapters' parameters are drawn as multiples of 1/16, so that the files pack small.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import toy
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parents[2] / "golden"
WORDS = 3
"""Logits of every third word are stored."""
REGENERATE = bool(os.environ.get("DELTASPACE_REGENERATE"))


@dataclass(frozen=True)
class Case:
    """A backbone and the configuration of an adapter by its class and arguments."""

    kind: str
    adapter: str
    changes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        return json.dumps([self.kind, self.changes], sort_keys=True)


def batch(kind: str) -> dict[str, np.ndarray]:
    """Two rows, the second with padding."""
    rng, lengths = np.random.default_rng(7), np.array([[5], [3]])
    found = {"input_ids": rng.integers(3, 60, (2, 5)), "attention_mask": np.arange(5) < lengths}
    found["input_ids"] *= found["attention_mask"]
    if kind in ("t5", "bart"):
        found["decoder_input_ids"] = rng.integers(3, 60, (2, 4))
    return {name: value.astype(np.int64) for name, value in found.items()}


def logits(backbone: Any, solution: Any) -> np.ndarray:
    """Ours."""
    return np.asarray(backbone.logits(batch(backbone.family), solution))


def real(kind: str, logits: np.ndarray) -> np.ndarray:
    """The logits at real tokens, those of prompts aside."""
    if kind in ("t5", "bart"):
        return logits
    return logits[:, -5:][batch(kind)["attention_mask"].astype(bool)]


def draw(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Multiples of 1/16, none of them 0."""
    return (rng.integers(1, 8, shape) * rng.choice([-1, 1], shape) / 16).astype(np.float32)


def agree(kind: str, ours: Any, theirs: np.ndarray) -> None:
    """Equal to 1e-4 of the size of the logits, at the words that are stored."""
    ours, theirs = real(kind, np.asarray(ours)), real(kind, theirs)
    if ours.shape != theirs.shape:
        ours = ours[..., ::WORDS]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(np.abs(theirs).max())))


# ------------------------------------------------------------ golden files
def pack(folder: Path, weights: str, logits: np.ndarray, plain: np.ndarray) -> dict[str, np.ndarray]:
    """A checkpoint and its logits as three arrays; logits that are nearly those without the adapter would tell nothing."""
    effect = float(np.abs(logits[:, -plain.shape[1] :] - plain).max())
    assert effect > 0.03, (folder, effect)
    tensors = load_file(folder / weights)
    names = sorted(tensors)
    header = {"config": json.loads((folder / "adapter_config.json").read_text()), "tensors": [[n, list(tensors[n].shape)] for n in names]}
    return {"header": np.frombuffer(json.dumps(header).encode(), np.uint8), "logits": logits[..., ::WORDS].astype(np.float32),
            "values": np.concatenate([tensors[n].ravel() for n in names]).astype(np.float32)}


def unpack(packed: dict[str, np.ndarray], folder: Path, weights: str) -> Path:
    """The checkpoint as a folder again."""
    folder.mkdir(parents=True)
    header, at, tensors = json.loads(packed["header"].tobytes()), 0, {}
    for name, shape in header["tensors"]:
        size = int(np.prod(shape))
        tensors[name], at = packed["values"][at : at + size].reshape(shape), at + size
    (folder / "adapter_config.json").write_text(json.dumps(header["config"]))
    save_file(tensors, folder / weights)
    return folder


def store(name: str, cases: dict[str, dict[str, np.ndarray]]) -> None:
    np.savez_compressed(GOLDEN / name, **{f"{case}.{what}": value for case, packed in cases.items() for what, value in packed.items()})


def stored(name: str) -> dict[str, dict[str, np.ndarray]]:
    with np.load(GOLDEN / name) as file:
        found: dict[str, dict[str, np.ndarray]] = {}
        for key in file.files:
            case, _, what = key.rpartition(".")
            found.setdefault(case, {})[what] = file[key]
    return found


# ------------------------------------------------------------ PEFT
T5 = {"d_kv": 6, "num_layers": 1, "num_decoder_layers": 1}  # queries 16 → 12
ONE = {"num_hidden_layers": 1}
BARE = {**ONE, toy.HEADLESS: True}
SEQ2SEQ, CAUSAL, FEATURES = {"task_type": "SEQ_2_SEQ_LM"}, {"task_type": "CAUSAL_LM"}, {"task_type": "FEATURE_EXTRACTION"}
PEFT: dict[str, Case] = {
    "t5-lora": Case("t5", "LoraConfig", T5, {**SEQ2SEQ, "r": 3, "lora_alpha": 5, "target_modules": ["q", "wo"], "rank_pattern": {"wo": 2},
                                             "alpha_pattern": {r"encoder.*\.q": 7}}),
    "bert-rslora": Case("bert", "LoraConfig", ONE, {"r": 3, "target_modules": ["query", "dense"], "use_rslora": True,
                                                    "rank_pattern": {"intermediate.dense": 5}}),
    "bare-dora": Case("bert", "LoraConfig", {toy.HEADLESS: True}, {**FEATURES, "r": 2, "target_modules": ["value", "output.dense"],
                                                                   "layers_to_transform": [1], "use_dora": True, "use_rslora": True}),
    "llama-dora": Case("llama", "LoraConfig", ONE, {**CAUSAL, "r": 3, "target_modules": "all-linear", "use_dora": True,
                                                    "exclude_modules": ["up_proj"]}),
    "llama-regex": Case("llama", "LoraConfig", {}, {**CAUSAL, "r": 2, "lora_alpha": 3, "target_modules": r"model\.layers\.1\..*_proj"}),
    "gpt2-lora": Case("gpt2", "LoraConfig", {"n_layer": 1}, {**CAUSAL, "r": 3, "target_modules": ["c_attn", "mlp.c_proj"],
                                                             "rank_pattern": {"c_attn": 2}, "fan_in_fan_out": True}),
    "gpt2-dora": Case("gpt2", "LoraConfig", {"n_layer": 1}, {**CAUSAL, "r": 2, "target_modules": ["c_attn", "c_fc"], "use_dora": True,
                                                             "fan_in_fan_out": True}),
    "t5-ia3": Case("t5", "IA3Config", T5, SEQ2SEQ),
    "bert-ia3": Case("bert", "IA3Config", ONE, {}),
    "gpt2-ia3": Case("gpt2", "IA3Config", {"n_layer": 1}, {**CAUSAL, "fan_in_fan_out": True}),
    "llama-prefix": Case("llama", "PrefixTuningConfig", {}, {**CAUSAL, "num_virtual_tokens": 3}),
    "gpt2-prefix": Case("gpt2", "PrefixTuningConfig", {"n_layer": 1}, {**CAUSAL, "num_virtual_tokens": 3}),
    "bare-prefix": Case("bert", "PrefixTuningConfig", BARE, {**FEATURES, "num_virtual_tokens": 3}),
    "t5-prefix-even": Case("t5", "PrefixTuningConfig", {"num_layers": 2, "num_decoder_layers": 2}, {**SEQ2SEQ, "num_virtual_tokens": 3}),
    "bart-prefix-odd": Case("bart", "PrefixTuningConfig", {"encoder_layers": 3, "decoder_layers": 3}, {**SEQ2SEQ, "num_virtual_tokens": 3}),
    "llama-prompt": Case("llama", "PromptTuningConfig", ONE, {**CAUSAL, "num_virtual_tokens": 3}),
    "t5-prompt": Case("t5", "PromptTuningConfig", T5, {**SEQ2SEQ, "num_virtual_tokens": 3}),
    "bart-prompt": Case("bart", "PromptTuningConfig", {"encoder_layers": 1}, {**SEQ2SEQ, "num_virtual_tokens": 3}),
    "t5-norms": Case("t5", "LNTuningConfig", T5, SEQ2SEQ),
    "bert-norms": Case("bert", "LNTuningConfig", ONE, {"target_modules": ["LayerNorm"]}),
}


def make_peft(case: Case, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """PEFT saves a random adapter of this case into the folder; the logits of its model, and those without the adapter."""
    import peft
    import torch

    config = getattr(peft, case.adapter)(**case.options)
    plain = toy.original(case.kind, **case.changes)
    without = answer(plain, case.kind)
    model = peft.get_peft_model(plain, config).eval()
    rng = np.random.default_rng(list(folder.name.encode()))
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:  # beside what a module copies or starts from, so that factors and norms stay near theirs
                start = torch.round(parameter * 16) / 16 if parameter.dim() == 1 or 1 in parameter.shape else 0
                parameter.copy_(start + torch.tensor(draw(tuple(parameter.shape), rng)))
    model.save_pretrained(folder)
    return answer(model, case.kind), without


def answer(model: Any, kind: str) -> np.ndarray:
    """The logits of a PyTorch model, or its hidden states."""
    import torch

    with torch.no_grad():
        out = model(**{name: torch.tensor(value) for name, value in batch(kind).items()})
    return (out.logits if "logits" in out else out.last_hidden_state).numpy()


def read_back(case: Case, folder: Path) -> np.ndarray:
    """What PEFT answers with the checkpoint in the folder."""
    import peft

    return answer(peft.PeftModel.from_pretrained(toy.original(case.kind, **case.changes), folder).eval(), case.kind)


# ------------------------------------------------------------ AdapterHub
V1_0 = {**T5, **toy.V1_0}
ADAPTERHUB: dict[str, Case] = {
    "bert-pfeiffer": Case("bert", "SeqBnConfig", ONE, {"reduction_factor": 4, "non_linearity": "gelu", "scaling": 2.0}),
    "bert-houlsby": Case("bert", "DoubleSeqBnConfig", {}, {"reduction_factor": 3, "leave_out": [0]}),
    "bert-parallel": Case("bert", "ParBnConfig", ONE, {"reduction_factor": 4, "mh_adapter": True}),
    "t5-pfeiffer": Case("t5", "SeqBnConfig", T5, {"reduction_factor": 4}),
    "t5-houlsby": Case("t5", "DoubleSeqBnConfig", T5, {"reduction_factor": 4, "cross_adapter": True, "leave_out": [0]}),
    "bart-houlsby": Case("bart", "DoubleSeqBnConfig", {"encoder_layers": 1}, {"reduction_factor": 8, "cross_adapter": True}),
    "llama-houlsby": Case("llama", "DoubleSeqBnConfig", ONE, {"reduction_factor": 8, "non_linearity": "tanh"}),
    "bert-lora": Case("bert", "LoRAConfig", ONE, {"r": 2, "alpha": 5}),
    "t5-lora": Case("t5", "LoRAConfig", V1_0, {"r": 2, "alpha": 3, "attn_matrices": ["k"], "intermediate_lora": True, "output_lora": True}),
    "gpt2-lora": Case("gpt2", "LoRAConfig", {"n_layer": 1}, {"r": 2, "alpha": 5}),
    "bert-prefix": Case("bert", "PrefixTuningConfig", {}, {"prefix_length": 3, "bottleneck_size": 4, "leave_out": [0]}),
    "bert-prefix-flat": Case("bert", "PrefixTuningConfig", ONE, {"prefix_length": 3, "flat": True}),
    "bart-prefix-flat": Case("bart", "PrefixTuningConfig", {"encoder_layers": 1}, {"prefix_length": 2, "flat": True}),
    "llama-prefix-flat": Case("llama", "PrefixTuningConfig", ONE, {"prefix_length": 3, "flat": True}),
}


def make_adapterhub(cases: dict[str, Case], root: Path, python: str) -> dict[str, tuple[Path, np.ndarray, np.ndarray]]:
    """Case → the checkpoint that the real library saved, the logits of its model, and those without the adapter."""
    job, found = [], {}
    for name, case in cases.items():
        backbone = toy.write_folder(root / f"{name}-backbone", case.kind, **case.changes)
        job.append({"backbone": str(backbone), "model": toy.MODELS[case.kind], "adapter": case.adapter, "options": case.options,
                    "out": str(root / name), "seed": list(name.encode()), "batch": {k: v.tolist() for k, v in batch(case.kind).items()}})
    (root / "job.json").write_text(json.dumps(job))
    subprocess.run([python, Path(__file__).with_name("make_adapterhub.py"), root / "job.json"], check=True)
    for name in cases:
        found[name] = (root / name, np.load(root / name / "logits.npy"), np.load(root / name / "plain.npy"))
    return found
