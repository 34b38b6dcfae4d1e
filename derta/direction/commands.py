"""The commands of launch/diagnose_direction.py beside the diagnostic of one model: select, convert, collect, study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from derta.config.direction import SelectionConfig
from derta.direction.selection import read_table, select


def _select(options: argparse.Namespace) -> None:
    candidates = read_table(options.table)
    layers = options.layers or max(candidate.layer for candidate in candidates) + 1
    rule = SelectionConfig(kl_max=options.kl_max, induce_min=options.induce_min, top_layers=options.top_layers)
    selection = select(candidates, layers, rule)
    reasons = {} if selection.chosen else {"reason": "no valid direction found", "dropped": selection.dropped}
    print(json.dumps(selection.to_json() | reasons))


def _convert(options: argparse.Namespace) -> None:
    from derta.residual.direction_files import convert_published

    direction = convert_published(options.file, options.metadata, options.output)
    place = {"position": direction.position, "layer": direction.layer, "hidden_size": len(direction.vector)}
    print(json.dumps({"output": str(options.output), **place}))


def _collect(options: argparse.Namespace) -> None:
    from derta.direction.collect import collect

    print(collect(options.results, options.output, options.evaluations))


def _study(options: argparse.Namespace) -> None:
    from derta.direction.study import study

    print(study(options.models, options.output, options.set))


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share from 0 to below 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch/diagnose_direction.py")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        return made

    defaults = SelectionConfig()
    chosen = command("select", _select, "Choose a direction from a table of candidates; prints JSON")
    chosen.add_argument("--table", type=Path, required=True, help="direction_evaluations.json")
    chosen.add_argument("--layers", type=int, help="layers of the model (default: the table's last layer + 1)")
    chosen.add_argument("--kl-max", type=float, default=defaults.kl_max, help="default %(default)s nats")
    chosen.add_argument("--induce-min", type=float, default=defaults.induce_min, help="default %(default)s")
    chosen.add_argument("--top-layers", type=_share, default=defaults.top_layers, help="default %(default)s")

    converted = command("convert", _convert, "Convert a published direction.pt to safetensors")
    converted.add_argument("--file", type=Path, required=True, help="direction.pt")
    converted.add_argument("--metadata", type=Path, required=True, help="direction_metadata.json")
    converted.add_argument("--output", type=Path, required=True, help="a name that ends in .safetensors")

    collected = command("collect", _collect, "Put finished diagnostics side by side: table and figure")
    collected.add_argument("results", type=Path, nargs="+", metavar="RESULT", help="folders of finished diagnostics")
    collected.add_argument("--output", type=Path, required=True, help="folder for direction_table.md and ablation.png")
    about = "folders of finished evaluations of the same models"
    collected.add_argument("--evaluations", type=Path, nargs="*", default=[], metavar="DIR", help=about)

    studied = command("study", _study, "Diagnose several models, one after another, and put them side by side")
    studied.add_argument("models", nargs="+", metavar="LABEL=DIR", help="seeds of one arm have one label")
    studied.add_argument("--output", type=Path, required=True, help="folder for results, table and figure")
    studied.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="as in the diagnostic of one model")
    return parser


COMMANDS = ("select", "convert", "collect", "study")


def run_command(arguments: Sequence[str]) -> None:
    """Run one of `COMMANDS`.

    Raises:
        InputError: a file that cannot be used. Wrong options end the process with exit code 2, as argparse does.
    """
    options = _parser().parse_args(arguments)
    options.run(options)
