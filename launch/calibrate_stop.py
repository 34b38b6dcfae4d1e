"""Choose the P(refusal) at which a response is stopped, for a stated rate of false alarms.

    python launch/calibrate_stop.py model.name_or_path=DIR benign=FILE harmful=FILE [key=value]
    python launch/calibrate_stop.py model.name_or_path=DIR benign=FILE harmful=FILE test_benign=FILE \\
        test_harmful=FILE 'monitors=[refusal_probability,reinserted_header,probe]' train=DATASET output=FILE.json

Both files hold responses that are given: benign ones, of which at most false_positive_rate may be stopped, and harmful
ones, which say how much is caught. The threshold goes into the model's derta_config.json, where `derta.RefusalStop` and
eval.guard=refusal_probability find it. Test files say what the promise is worth; the second form compares with others.
"""

from derta.config.command import Command
from derta.config.stop import CalibrateRunConfig


def run(config: CalibrateRunConfig) -> None:
    from derta.evaluation.stop import calibrate, describe

    print(describe(calibrate(config)))


main = Command("calibrate_stop", CalibrateRunConfig, run, __doc__)

if __name__ == "__main__":
    main()
