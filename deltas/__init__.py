"""Deltas on a frozen backbone: attach, train, flatten, store, convert.

backbones    pretrained transformers whose sites take deltas
types        the delta types: frozen configurations that build the parts
attach       put deltas on sites and take them off, in any order; merge them into the weights
opening      sites in a module of one's own
compose      several solutions on one backbone, or each row of a batch with its own
combining    several types in one solution, together or one after the other
layout       parameters ↔ one vector θ ∈ R^D
functional   a backbone with a delta as pure functions of θ
tasks        tab-separated folders, the gym, metrics, batches
verbalizer   how an encoder answers
evaluation   scores of many θ at once
tuning       the engine that tunes many vectors at once
training     independent solutions into a bank
convergence  how fast a solution was found
budgets      how few numbers are enough, and whether it matters which
bank         a folder of solutions θ − θ0
sharing      one solution as one file
checkpoints  PEFT's and AdapterHub's folders ↔ solutions
inspection   what a backbone, a bank, a solution or a subspace holds
"""

from deltas.attach import attach, detach, merge, sites, unmerge
from deltas.backbones import Backbone, load_backbone
from deltas.backbones.sites import Delta
from deltas.bank import Bank, Solution
from deltas.checkpoints import load_adapterhub, load_checkpoint, load_peft, read_unplaced, save_peft
from deltas.compose import carrying, merged
from deltas.errors import InputError
from deltas.evaluation import Score, evaluate
from deltas.functional import Attached
from deltas.inspection import inspect
from deltas.layout import Layout
from deltas.sharing import load_solution, save_solution
from deltas.tasks import Reading, Task, load_tasks
from deltas.tasks.gym import gym
from deltas.training import attached_from, train
from deltas.tuning import Training
from deltas.types import (
    IA3,
    Adapter,
    Arbitrary,
    BitFit,
    CalibratedLoRA,
    CalibratedPrefix,
    Compacter,
    DeltaType,
    Full,
    LoRA,
    LowRankAdapter,
    Prefix,
    Prompt,
    Together,
)
from deltas.verbalizer import answers

__all__ = [
    "IA3", "Adapter", "Arbitrary", "Attached", "Backbone", "Bank", "BitFit", "CalibratedLoRA", "CalibratedPrefix", "Compacter", "Delta",
    "DeltaType", "Full", "InputError", "Layout", "LoRA", "LowRankAdapter", "Prefix", "Prompt", "Reading", "Score", "Solution", "Task",
    "Together", "Training", "answers", "attach", "attached_from", "carrying", "detach", "evaluate", "gym", "inspect", "load_adapterhub",
    "load_backbone", "load_checkpoint", "load_peft", "load_solution", "load_tasks", "merge", "merged", "read_unplaced", "save_peft",
    "save_solution", "sites", "train", "unmerge",
]
