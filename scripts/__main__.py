"""`deltaspace COMMAND …`, also `python -m deltaspace COMMAND …`."""

import os
import sys
from typing import Annotated

import tyro

from .arbitrary import Arbitrary
from .bench_command import Bench
from .compress import Compress
from .continual import Continual
from .convert import Convert
from .decompose import Decompose
from .demo import Demo
from .ensemble import Ensemble
from .export import Export
from .extend import Extend
from .inspect import Inspect
from .landscape import Landscape
from .merge import Merge
from .optimize import Optimize
from .project import Project
from .study import StudyCommand
from .train import Train
from .transfer import Transfer

Commands = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[StudyCommand, tyro.conf.subcommand("study")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Decompose, tyro.conf.subcommand("decompose")]
    | Annotated[Optimize, tyro.conf.subcommand("optimize")]
    | Annotated[Transfer, tyro.conf.subcommand("transfer")]
    | Annotated[Landscape, tyro.conf.subcommand("landscape")]
    | Annotated[Ensemble, tyro.conf.subcommand("ensemble")]
    | Annotated[Project, tyro.conf.subcommand("project")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Merge, tyro.conf.subcommand("merge")]
    | Annotated[Extend, tyro.conf.subcommand("extend")]
    | Annotated[Compress, tyro.conf.subcommand("compress")]
    | Annotated[Continual, tyro.conf.subcommand("continual")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Arbitrary, tyro.conf.subcommand("arbitrary")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(args: list[str] | None = None) -> int:
    """Run one command; 0, or 2 after one sentence about what was wrong with the input. JAX is imported only once a command runs."""
    command = tyro.cli(Commands, prog="deltaspace", description="The unified optimization subspace of delta tuning.", args=args,
                       config=(tyro.conf.OmitSubcommandPrefixes,))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from deltas.errors import InputError

    try:
        command.run()
    except InputError as error:
        print(f"deltaspace: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deltaspace: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
