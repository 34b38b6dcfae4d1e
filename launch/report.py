"""Put finished evaluations side by side: report.html (one file that opens from disk), report.md and three figures.

    python launch/report.py runs=[DIR,DIR,...] output=DIR [directions=[DIR,...]] [responses=true]

Evaluations with the same label (the seeds of one arm) share a column: mean and standard deviation. The texts of the
responses are not in the page unless responses=true puts them there.
"""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from derta.config.compose import launch, register_schema, reporting_errors, to_config
from derta.config.evaluation import ReportRunConfig

register_schema("report_schema", ReportRunConfig)


def problems(cfg: DictConfig) -> list[str]:
    return to_config(cfg, ReportRunConfig).problems()


def report(cfg: DictConfig) -> None:
    from derta.evaluation.provenance import shown_command
    from derta.report.report import write_report

    config = to_config(cfg, ReportRunConfig)
    command, directions = shown_command(sys.argv), config.directions
    print(write_report(config.runs, config.output, responses=config.responses, command=command, directions=directions))
    print(f"written to {config.output}: report.html, report.md and its figures")
    if config.responses:
        print("report.html holds the texts of the responses, which may be harmful: mind who gets it")


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    reporting_errors(report, cfg)


if __name__ == "__main__":
    launch(main, "report", problems)
