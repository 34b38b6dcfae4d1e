"""Speed and memory against peers: python launch/benchmark.py [suite=[all]] [size=small] [clock=wall]"""

from derta.benchmark.suites import BenchmarkRunConfig
from derta.config.command import Command, listing


def run(config: BenchmarkRunConfig) -> None:
    from derta.benchmark.suites import run_benchmark

    print(run_benchmark(config))


main = Command("benchmark", BenchmarkRunConfig, run, __doc__, modern=listing("suite"))

if __name__ == "__main__":
    main()
