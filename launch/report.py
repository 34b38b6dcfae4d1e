"""Put finished evaluations side by side: report.html (one file that opens from disk), report.md and three figures.

    python launch/report.py runs=[DIR,DIR,...] output=DIR [directions=[DIR,...]] [responses=true]

Evaluations with the same label (the seeds of one arm) share a column: mean and standard deviation. The texts of the
responses are not in the page unless responses=true puts them there.
"""

import sys

from derta.config.command import Command
from derta.config.evaluation import ReportRunConfig


def run(config: ReportRunConfig) -> None:
    from derta.evaluation.provenance import shown_command
    from derta.report.report import write_report

    command, directions = shown_command(sys.argv), config.directions
    print(write_report(config.runs, config.output, responses=config.responses, command=command, directions=directions))
    print(f"written to {config.output}: report.html, report.md and its figures")
    if config.responses:
        print("report.html holds the texts of the responses, which may be harmful: mind who gets it")


main = Command("report", ReportRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
