"""The gym: procedural text-to-text tasks, made of one scope, one operation and one mapping each.

A row is nine numbered nouns in three clauses; a task such as `right.reverse.plural` takes the clause that the scope names, applies the
operation to its three words, then the mapping to every word that is left:

    _ _ _ 1 cat 2 key 3 plum 4 hat 5 ant 6 saw 7 pear 8 goat 9 loaf    →    loaves goats pears

The tiny backbone learnt these skills from instructions (`right reverse plural` in place of the three blanks), now and then with a word of
them blanked. The tasks come without: what a delta has to learn is which skill is wanted. The numbers mark positions in the text, since T5
has only relative ones. Rows never hold one noun twice, so no two tasks share an answer by accident of position.

A test bed, and no more: what holds here is a lead for real tasks, not a result about them.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from deltas.errors import InputError
from deltas.files import sha256
from deltas.tasks.task import Example, Task

Group = Literal["source", "dev", "unseen_met", "unseen_new", "far"]

CLAUSE = 3
"""Words in a clause; each scope is one clause."""
SCOPES = ("left", "middle", "right")
OPERATIONS = {"copy": "order", "reverse": "order", "first": "pick", "last": "pick", "largest": "compare", "smallest": "compare"}
"""The operations of the source tasks, with their families."""
FAR = {"rotate": "order", "second": "pick"}
"""Operations that no source task has; the backbone knows their instructions."""
MAPPINGS = ("same", "plural", "kind", "french", "partner")
BLANK = "_"

# From the smallest to the largest thing, so that a noun's row is its size; a partner is of the same kind.
_NOUNS = """
pin      pins      tool      épingle     key
ant      ants      animal    fourmi      bee
nut      nuts      food      noix        plum
button   buttons   clothing  bouton      glove
bee      bees      animal    abeille     ant
key      keys      tool      clé         pin
plum     plums     food      prune       nut
glove    gloves    clothing  gant        button
mouse    mice      animal    souris      cat
spoon    spoons    tool      cuillère    hammer
hat      hats      clothing  chapeau     boot
pear     pears     food      poire       loaf
hammer   hammers   tool      marteau     spoon
boot     boots     clothing  botte       hat
loaf     loaves    food      pain        pear
hen      hens      animal    poule       goat
shirt    shirts    clothing  chemise     coat
cabbage  cabbages  food      chou        pumpkin
saw      saws      tool      scie        ladder
cat      cats      animal    chat        mouse
pumpkin  pumpkins  food      citrouille  cabbage
coat     coats     clothing  manteau     shirt
goat     goats     animal    chèvre      hen
ladder   ladders   tool      échelle     saw
"""
NOUNS = tuple(line.split()[0] for line in _NOUNS.split("\n") if line)
KINDS = ("animal", "food", "tool", "clothing")
FORMS = np.array([[line.split()[column] for line in _NOUNS.split("\n") if line] for column in (0, 1, 2, 3, 4)])
"""What each mapping makes of each noun, words [mapping, noun]."""


class Skill(NamedTuple):
    """One composition."""

    scope: str
    operation: str
    mapping: str

    @property
    def name(self) -> str:
        """The task's name, `right.reverse.plural`."""
        return ".".join(self)

    @property
    def group(self) -> Group | None:
        """The group of tasks it belongs to, None where it serves only in the backbone's own training.

        Each (scope, operation) pair keeps one mapping for the tasks that no source solution is for, and gives two or three others to the
        sources. So every factor, and nearly every pair of factors, stands in several sources.
        """
        s, m = SCOPES.index(self.scope), MAPPINGS.index(self.mapping)
        if self.operation in FAR:
            return "far" if m == s + 1 else None
        o = list(OPERATIONS).index(self.operation)
        place = (o + 2 * s + m) % len(MAPPINGS)  # a Latin square: each place comes once in every (scope, operation) pair
        if place == 0:
            return ("dev", "unseen_met", "unseen_new")[(s + o) % 3]
        return "source" if place <= 2 or (place == 3 and (s + o) % 3 == 0) else None

    @property
    def met(self) -> bool:
        """Whether the backbone meets it, with its instruction, in its own training: all but `unseen_new`, and `dev` outside the family pick."""
        return self.group != "unseen_new" and not (self.group == "dev" and OPERATIONS[self.operation] != "pick")


def skills() -> list[Skill]:
    """Every composition there is."""
    return [Skill(*parts) for parts in product(SCOPES, (*OPERATIONS, *FAR), MAPPINGS)]


def gym_groups() -> dict[Group, tuple[str, ...]]:
    """The names of the tasks by group.

    `source`: a bank is made of these. `dev`: for every choice (k, rates, steps). `unseen_met`: compositions of known factors that the
    backbone met with their instruction; `unseen_new`: compositions that it never met. `far`: an operation that no source has.
    """
    groups: dict[Group, tuple[str, ...]] = {}
    for group in ("source", "dev", "unseen_met", "unseen_new", "far"):
        groups[group] = tuple(skill.name for skill in skills() if skill.group == group)
    return groups


def gym(group: Group | None = None, *, names: Iterable[str] | None = None, rows: Sequence[int] = (512, 64, 128),
        seed: int = 0) -> list[Task]:
    """The gym's tasks, the same for the same arguments on every machine.

    Args:
        group: one of `gym_groups()`; None for all of them.
        names: these tasks alone; any composition of a scope, an operation and a mapping.
        rows: how many rows the train, dev and test splits have.
        seed: of the rows.

    Raises:
        InputError: no such group or task, or a split without rows.

    Example:
        >>> gym(names=["left.reverse.plural"])[0].metric
        'exact_match'
    """
    groups = gym_groups()
    if group is not None and group not in groups:
        raise InputError(f"expected a group of gym tasks ({', '.join(groups)}), got {group!r}; choose one of them")
    if len(rows) != 3 or min(rows) < 1:
        raise InputError(f"expected three positive numbers of rows (train, dev, test), got {tuple(rows)}; give every split some")
    chosen = [name for members in ([groups[group]] if group else groups.values()) for name in members]
    known = {skill.name: skill for skill in skills()}
    if names is not None:
        wanted = list(names)
        for name in wanted:
            if name not in known or (group and name not in chosen):
                raise InputError(f"expected the name of a gym task{f' of group {group}' if group else ''}, got {name!r}; "
                                 f"{chosen[0]} is one")
        chosen = wanted
    return [_task(known[name], rows, seed) for name in chosen]


def draw(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Nine different nouns a row, as indices [rows, 9]."""
    return np.argsort(rng.random((rows, len(NOUNS))), axis=1)[:, : CLAUSE * len(SCOPES)]


def solve(nouns: np.ndarray, scope: str, operation: str) -> np.ndarray:
    """The nouns that the answer is made of, in order, before the mapping: indices [rows, words] from [rows, 9]."""
    start = CLAUSE * SCOPES.index(scope)
    clause = nouns[:, start : start + CLAUSE]
    places = {"copy": [0, 1, 2], "reverse": [2, 1, 0], "first": [0], "last": [2], "rotate": [1, 2, 0], "second": [1]}
    if operation in places:
        return clause[:, places[operation]]
    best = clause.max(axis=1) if operation == "largest" else clause.min(axis=1)
    return best[:, None]


def text(nouns: Sequence[int], instruction: Sequence[str] = (BLANK,) * 3) -> str:
    """A row's input: the instruction, or blanks in its place, and the numbered nouns."""
    return " ".join([*instruction, *(f"{place} {NOUNS[n]}" for place, n in enumerate(nouns, start=1))])


def vocabulary() -> list[str]:
    """Every word of the gym, in the order of the tiny backbone's tokenizer."""
    words = [BLANK, *SCOPES, *OPERATIONS, *FAR, *MAPPINGS, *map(str, range(1, 1 + CLAUSE * len(SCOPES))), *FORMS.flatten().tolist()]
    return list(dict.fromkeys(words))


def _task(skill: Skill, rows: Sequence[int], seed: int) -> Task:
    rng = np.random.default_rng([seed, int(sha256(skill.name)[:8], 16)])
    nouns = draw(rng, sum(rows))
    answers = FORMS[MAPPINGS.index(skill.mapping)][solve(nouns, skill.scope, skill.operation)]
    examples = [Example(text(row), (" ".join(words),)) for row, words in zip(nouns.tolist(), answers.tolist(), strict=True)]
    train, dev = rows[0], rows[0] + rows[1]
    one_kind = skill.mapping == "kind" and answers.shape[1] == 1
    return Task(
        name=skill.name, train=tuple(examples[:train]), dev=tuple(examples[train:dev]), test=tuple(examples[dev:]),
        metric="accuracy" if one_kind else "exact_match", labels=KINDS if one_kind else None,
        category={**OPERATIONS, **FAR}[skill.operation])
