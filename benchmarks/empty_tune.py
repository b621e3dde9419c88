"""The least that a sweep on Ray Tune takes before its first unit: speed.py sets twofold against it.

python benchmarks/empty_tune.py [--workers 2]

A driver that imports what it needs to run Tune and to log to MLflow, Ray on this machine, and actors that
import what any unit needs and do nothing, the same ones for all trials.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import mlflow  # noqa: F401  # a sweep logs to it
import ray
from ray import tune


class Nothing(tune.Trainable):
    """An actor that could train a network of timm and cluster its features."""

    def setup(self, config: dict[str, Any]) -> None:
        """Import what units need."""
        import sklearn.cluster  # noqa: F401
        import timm  # noqa: F401

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stay for the next trial."""
        return True

    def step(self) -> dict[str, Any]:
        """End the trial."""
        return {"done": True}


def main() -> None:
    """Run two trials per worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    workers = parser.parse_args().workers
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        tune.Tuner(
            tune.with_resources(Nothing, {"cpu": 1}),
            param_space={"trial": tune.grid_search(list(range(2 * workers)))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=workers),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
