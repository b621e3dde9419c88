"""From image ids to settings: seeded splits with exact counts, a pure function of the ids and the seed.

Every part is the first so many ids in the order of a seeded hash, so a split does not change when it is drawn
again, on another machine, or for another contamination. Inside a part ids are sorted, which leaks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import islice

from trainables.errors import TwofoldError
from trainables.seeding import unit_interval
from trainables.types import Setting, Task

SOURCE_FIT_SHARE = 0.8
TARGET_TRAINING_SHARE = 0.7
TARGET_FIT_SHARE = 0.7
SMALLEST_PART = 2

Ids = tuple[str, ...]


def draw_setting(
    task: Task,
    source_ids: Sequence[str],
    target_normals: Sequence[str],
    target_anomalies: Mapping[str, Sequence[str]],
    contamination: float,
    split_seed: int,
    transductive: bool = False,
) -> Setting:
    """Split a task whose target labels are known.

    70 % of the target normals and round(rho / (1 - rho) * their number) anomalies, evenly over their classes,
    are the unlabelled training set; 70 % of that is T_fit, the rest T_sel. All other images are the test.
    Neither the source parts nor the normals of the training set depend on the contamination.

    Args:
        task: the task, for messages and for the setting.
        source_ids: ids of the source images of the normal class.
        target_normals: ids of the target images of the normal class.
        target_anomalies: class name -> ids of the target images of that anomalous class.
        contamination: rho in [0, 1), anomalies / all images in the unlabelled training set.
        split_seed: which of the possible splits.
        transductive: judge all target images, those of the training set too.

    Raises:
        TwofoldError: rho cannot be reached, or a part has fewer than two images.
    """
    normals, _ = _divide(target_normals, TARGET_TRAINING_SHARE, "target training", split_seed)
    count = _anomaly_count(task, contamination, len(normals), target_anomalies)
    anomalies = _draw_evenly(target_anomalies, count, split_seed)
    training = (*normals, *anomalies)
    everything = {*target_normals, *(image for ids in target_anomalies.values() for image in ids)}
    test = everything if transductive else everything - set(training)
    return _setting(task, contamination, split_seed, source_ids, training, tuple(test))


def draw_unlabelled(
    task: Task, source_ids: Sequence[str], target_ids: Sequence[str], split_seed: int
) -> Setting:
    """Split a task whose target nobody has labelled: all its images are the training set, and the test too.

    Its ``contamination`` is 0: no anomaly was added to the target as found, and its true share is unknown.

    Raises:
        TwofoldError: a part has fewer than two images.
    """
    return _setting(task, 0.0, split_seed, source_ids, target_ids, target_ids)


def _setting(
    task: Task,
    contamination: float,
    split_seed: int,
    source_ids: Sequence[str],
    training: Sequence[str],
    test: Sequence[str],
) -> Setting:
    source_fit, source_val = _divide(source_ids, SOURCE_FIT_SHARE, "source fit", split_seed)
    target_fit, target_sel = _divide(training, TARGET_FIT_SHARE, "target fit", split_seed)
    _refuse_small(task, task.source, len(source_ids), source_fit, source_val)
    _refuse_small(task, task.target, len({*training, *test}), target_fit, target_sel, tuple(test))
    return Setting(
        task=task,
        contamination=float(contamination),
        split_seed=split_seed,
        source_fit=source_fit,
        source_val=source_val,
        target_fit=target_fit,
        target_sel=target_sel,
        test=tuple(sorted(test)),
    )


def _divide(ids: Sequence[str], share: float, purpose: str, split_seed: int) -> tuple[Ids, Ids]:
    """The first round(share * n) ids in hash order, and the rest; each sorted."""
    ordered = _by_hash(tuple(ids), purpose, split_seed)
    cut = round(share * len(ordered))
    return tuple(sorted(ordered[:cut])), tuple(sorted(ordered[cut:]))


# Tasks of one domain share its classes, whatever their normal class and contamination: hash each class once.
@lru_cache(maxsize=256)
def _by_hash(ids: Ids, purpose: str, split_seed: int) -> Ids:
    return tuple(sorted(ids, key=lambda image: (unit_interval(purpose, split_seed, image), image)))


def _anomaly_count(
    task: Task, contamination: float, normals: int, anomalies: Mapping[str, Sequence[str]]
) -> int:
    """Number of anomalies that makes their share of the training set ``contamination``."""
    if not 0 <= contamination < 1:
        raise TwofoldError(f"`contamination` {contamination} is not a share; give a number in [0, 1).")
    count = round(contamination / (1 - contamination) * normals)
    available = _most_even(anomalies)
    if count > available:
        largest = available / (available + normals)
        raise TwofoldError(
            f"`contamination` {contamination} is not reachable for {task}: {count} anomalies, evenly over "
            f"{len(anomalies)} classes, are needed for {normals} normals, but '{task.target}' has "
            f"{available}; the largest reachable contamination is {int(largest * 1000) / 1000:g}. "
            "Lower it, or name more `anomaly_classes`."
        )
    return count


def _most_even(anomalies: Mapping[str, Sequence[str]]) -> int:
    """Most images that can be taken from the classes if no two contribute numbers further apart than one."""
    smallest = min(map(len, anomalies.values()), default=0)
    return sum(min(len(ids), smallest + 1) for ids in anomalies.values())


def _draw_evenly(anomalies: Mapping[str, Sequence[str]], count: int, split_seed: int) -> Ids:
    """Take ``count`` ids in rounds of one per class, so that a larger count contains every smaller one."""
    purpose = "target anomalies"
    names = sorted(anomalies, key=lambda name: (unit_interval(purpose, split_seed, name), name))
    queues = [_by_hash(tuple(anomalies[name]), purpose, split_seed) for name in names]
    rounds = (queue[turn] for turn in range(count) for queue in queues if turn < len(queue))
    return tuple(islice(rounds, count))


def _refuse_small(task: Task, domain: str, images: int, *parts: Ids) -> None:
    if min(map(len, parts)) < SMALLEST_PART:
        raise TwofoldError(
            f"too few images for {task}: domain '{domain}' has {images} to split, and every part needs "
            f"{SMALLEST_PART}; add images of '{task.normal_class}' to '{domain}', or leave this class out."
        )
