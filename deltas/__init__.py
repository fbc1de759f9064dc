"""Deltas on a frozen backbone: attach, train, flatten, store.

backbones   pretrained transformers whose sites take deltas
types       lora, adapter, prefix: frozen configurations that build the parts
attach      put parts on sites and take them off, in any order
layout      parameters ↔ one vector θ ∈ R^D
functional  a backbone with a delta as pure functions of θ
tasks       tab-separated folders, the gym, metrics, batches
evaluation  scores of many θ at once
tuning      the engine that tunes many vectors at once
training    independent solutions into a bank
bank        a folder of solutions θ − θ0
"""

from deltas.attach import attach, detach, sites
from deltas.backbones import Backbone, load_backbone
from deltas.bank import Bank, Solution
from deltas.errors import InputError
from deltas.evaluation import Score, evaluate
from deltas.functional import Attached
from deltas.layout import Layout
from deltas.tasks import Reading, Task, load_tasks
from deltas.tasks.gym import gym
from deltas.training import attached_from, train
from deltas.tuning import Training
from deltas.types import Adapter, DeltaType, LoRA, Prefix

__all__ = [
    "Adapter", "Attached", "Backbone", "Bank", "DeltaType", "InputError", "Layout", "LoRA", "Prefix", "Reading", "Score", "Solution",
    "Task", "Training", "attach", "attached_from", "detach", "evaluate", "gym", "load_backbone", "load_tasks", "sites", "train",
]
