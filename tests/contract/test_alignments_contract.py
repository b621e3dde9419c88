"""What every alignment promises, over the registry; eq. 8 and 9 and MMD written again as loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainables.alignments.base import ALIGNMENTS, Alignment, Batch
from trainables.clusterers.base import trusted_assignment

NAMES = ALIGNMENTS.names()
NEGATIVES = ["non_dominant", "in_batch", "both", "ignore_band"]
EVERY: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in NAMES]
EVERY += [("contrastive", {"negatives": choice, "tau": tau}) for choice in NEGATIVES for tau in (0.07, 0.5)]


def build(name: str, **values: Any) -> Alignment:
    alignment: Alignment = ALIGNMENTS.get(name)(**values)
    return alignment


def unit(rows: int, seed: int, e: int = 4) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, e, generator=draws, dtype=torch.float64), dim=1)


def batch(b: int = 5, m: int = 4, seed: int = 0, trusted: int | None = None) -> Batch:
    return Batch(
        unit(b, seed), unit(trusted or b, seed + 1), unit(m, seed + 2), unit(3, seed + 3).mean(dim=0)
    )


def complete(alignment: Alignment, rows: Batch) -> Batch:
    """The batch in the middle of a training, with the network that the alignment asks for."""
    torch.manual_seed(0)
    critic = alignment.critic(rows.source.shape[1])
    return replace(rows, critic=None if critic is None else critic.double(), progress=0.5)


def contrastive_by_loops(rows: Batch, tau: float, negatives: str) -> float:
    """l_ij of eq. 8 for every pair, and their mean (eq. 9)."""
    total, pairs = 0.0, 0
    for z_source in rows.source.tolist():
        for j, z_trusted in enumerate(rows.trusted.tolist()):
            pushed = [] if negatives == "in_batch" else rows.negatives.tolist()
            if negatives in ("in_batch", "both"):
                pushed = pushed + [z for k, z in enumerate(rows.trusted.tolist()) if k != j]
            similar = math.exp(sum(a * b for a, b in zip(z_source, z_trusted, strict=True)) / tau)
            others = sum(math.exp(sum(a * b for a, b in zip(z_source, z, strict=True)) / tau) for z in pushed)
            total -= math.log(similar / (similar + others))
            pairs += 1
    return total / pairs


def mmd_by_loops(rows: Batch) -> float:
    x, y = rows.source.tolist(), rows.trusted.tolist()
    both = x + y
    mean = sum(math.dist(a, b) ** 2 for a in both for b in both) / len(both) ** 2
    total = 0.0
    for a in (1 / 8, 1 / 4, 1 / 2, 1, 2):

        def kernel(p: list[float], q: list[float], variance: float = a * mean) -> float:
            return math.exp(-(math.dist(p, q) ** 2) / (2 * variance))

        total += sum(kernel(p, q) for p in x for q in x) / len(x) ** 2
        total += sum(kernel(p, q) for p in y for q in y) / len(y) ** 2
        total -= 2 * sum(kernel(p, q) for p in x for q in y) / (len(x) * len(y))
    return total / 5


def test_expected_alignments_are_found() -> None:
    assert {"bce", "contrastive", "coral", "grl", "identity", "mmd", "none", "positive"} <= set(NAMES)


@pytest.mark.parametrize(("name", "values"), EVERY)
@given(seed=st.integers(0, 10_000), b=st.integers(2, 6), m=st.integers(1, 6), t=st.integers(2, 6))
@settings(max_examples=15)
def test_finite_and_never_negative(
    name: str, values: dict[str, Any], seed: int, b: int, m: int, t: int
) -> None:
    alignment = build(name, **values)
    loss = alignment(complete(alignment, batch(b, m, seed, trusted=t)))
    assert loss.shape == () and torch.isfinite(loss)
    assert loss.item() >= -1e-12


@pytest.mark.parametrize(("name", "values"), EVERY)
def test_order_within_a_batch_does_not_matter(name: str, values: dict[str, Any]) -> None:
    alignment = build(name, **values)
    rows = complete(alignment, batch())
    moved = replace(
        rows,
        source=rows.source.flip(0),
        trusted=rows.trusted.roll(2, 0),
        negatives=rows.negatives.flip(0),
    )
    assert alignment(moved).item() == pytest.approx(alignment(rows).item(), rel=1e-12)


@pytest.mark.parametrize(("name", "values"), EVERY)
def test_gradient_reaches_the_trusted_embeddings_and_stays_finite(name: str, values: dict[str, Any]) -> None:
    """Equal rows are where distances and logarithms have infinite slopes."""
    alignment = build(name, **values)
    if not alignment.uses_trusted:
        return
    for equal in (False, True):
        rows = complete(alignment, batch())
        trusted = (rows.source if equal else rows.trusted).detach().clone().requires_grad_()
        loss = alignment(replace(rows, trusted=trusted))
        (gradient,) = torch.autograd.grad(loss, trusted)
        assert torch.isfinite(gradient).all()
        assert equal or gradient.abs().sum() > 0


@pytest.mark.parametrize(("name", "values"), EVERY)
def test_the_progress_changes_nothing_unless_the_alignment_uses_it(name: str, values: dict[str, Any]) -> None:
    """Neither the loss nor a gradient: trainings of other numbers of epochs are shared on its word."""
    alignment = build(name, **values)

    def at(progress: float) -> list[torch.Tensor]:
        rows = replace(complete(alignment, batch()), progress=progress)
        inputs = [x.clone().requires_grad_() for x in (rows.source, rows.trusted, rows.negatives)]
        loss = alignment(Batch(*inputs, rows.centre, critic=rows.critic, progress=progress))
        weights = [] if rows.critic is None else list(rows.critic.parameters())
        if not loss.requires_grad:
            return [loss]
        gradients = torch.autograd.grad(loss, [*inputs, *weights], allow_unused=True)
        return [loss.detach(), *(gradient for gradient in gradients if gradient is not None)]

    same = [all(map(torch.equal, at(0.0), at(progress))) for progress in (0.01, 0.5, 1.0)]
    assert same == [not alignment.uses_progress] * 3


@pytest.mark.parametrize("name", [name for name in NAMES if not ALIGNMENTS.get(name).uses_trusted])
def test_without_the_target_the_loss_is_zero(name: str) -> None:
    rows = batch()
    empty = Batch(rows.source, rows.trusted[:0], rows.negatives[:0], rows.centre)
    assert build(name)(empty).item() == 0
    assert not build(name).uses_negatives


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("tau", [0.07, 0.2, 1.0])
@pytest.mark.parametrize(("b", "t", "m"), [(5, 5, 4), (3, 6, 1), (1, 2, 7)])
def test_contrastive_is_equation_8_and_9(negatives: str, tau: float, b: int, t: int, m: int) -> None:
    rows = batch(b, m, seed=5, trusted=t)
    value = build("contrastive", tau=tau, negatives=negatives)(rows).item()
    assert value == pytest.approx(contrastive_by_loops(rows, tau, negatives), rel=1e-10)


@pytest.mark.parametrize(("b", "t"), [(5, 5), (3, 7)])
def test_mmd_is_the_biased_estimate(b: int, t: int) -> None:
    rows = batch(b, seed=9, trusted=t)
    assert build("mmd")(rows).item() == pytest.approx(mmd_by_loops(rows), rel=1e-10)


def test_positive_is_equation_5_on_the_trusted_images() -> None:
    rows = batch()
    expected = np.mean([math.dist(z, rows.centre.tolist()) ** 2 for z in rows.trusted.tolist()])
    assert build("positive")(rows).item() == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(("b", "t"), [(5, 5), (3, 7), (2, 2)])
def test_coral_is_the_distance_of_the_covariances(b: int, t: int) -> None:
    rows = batch(b, seed=9, trusted=t)
    difference = np.cov(rows.source.numpy().T) - np.cov(rows.trusted.numpy().T)
    assert build("coral")(rows).item() == pytest.approx(np.square(difference).sum(), rel=1e-10)


def test_coral_does_not_see_a_shift_of_all_embeddings() -> None:
    rows = batch()
    moved = replace(rows, trusted=rows.trusted + torch.tensor([0.3, -0.1, 0, 0.2], dtype=torch.float64))
    assert build("coral")(moved).item() == pytest.approx(build("coral")(rows).item(), rel=1e-10)


@pytest.mark.parametrize("weight", [1.0, 0.3, 4.0])
def test_bce_is_the_cross_entropy_of_exp_minus_distance(weight: float) -> None:
    rows = replace(batch(m=6, seed=7), negative_weight=weight)

    def normal(z: list[float]) -> float:
        return math.exp(-(math.dist(z, rows.centre.tolist()) ** 2))

    inside = [-math.log(normal(z)) for z in rows.trusted.tolist()]
    outside = [-math.log(1 - normal(z)) for z in rows.negatives.tolist()]
    expected = np.mean(inside) + weight * np.mean(outside)
    assert build("bce")(rows).item() == pytest.approx(float(expected), rel=1e-10)


def test_bce_survives_an_anomaly_at_the_centre() -> None:
    rows = batch()
    negatives = rows.centre.expand(3, -1).clone().requires_grad_()
    loss = build("bce")(replace(rows, negatives=negatives))
    assert torch.isfinite(loss) and loss.item() > 10
    assert torch.isfinite(torch.autograd.grad(loss, negatives)[0]).all()


@pytest.mark.parametrize("negatives", ["non_dominant", "both"])
def test_a_negative_of_weight_two_counts_like_two(negatives: str) -> None:
    alignment, rows = build("contrastive", negatives=negatives), batch()
    if negatives == "non_dominant":
        twice = replace(rows, negatives=rows.negatives.repeat(2, 1))
        assert alignment(replace(rows, negative_weight=2.0)).item() == pytest.approx(alignment(twice).item())
    values = [alignment(replace(rows, negative_weight=weight)).item() for weight in (0.1, 1.0, 10.0)]
    assert values == sorted(values)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_grl_turns_the_gradient_of_the_classifier_around(progress: float) -> None:
    """The classifier gets the gradient of its cross-entropy, the embeddings minus a multiple of it."""
    alignment = build("grl")
    rows = replace(complete(alignment, batch(4, trusted=6)), progress=progress)
    assert rows.critic is not None
    source, trusted = (x.clone().requires_grad_() for x in (rows.source, rows.trusted))
    weights = list(rows.critic.parameters())
    logits = rows.critic(torch.cat([source, trusted]) * 2.0)[:, 0]  # sqrt(e) = 2
    # mean over the domains of -log p(own domain)
    plain = (torch.log1p(logits[:4].exp()).mean() + torch.log1p((-logits[4:]).exp()).mean()) / 2
    loss = alignment(replace(rows, source=source, trusted=trusted))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-10)
    expected = torch.autograd.grad(plain, [source, trusted, *weights])
    found = torch.autograd.grad(loss, [source, trusted, *weights])
    factor = -math.tanh(5 * progress)  # 2 / (1 + e^(-10 p)) - 1
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert torch.allclose(ours, factor * theirs, atol=1e-12)
    assert all(torch.allclose(ours, theirs) for ours, theirs in zip(found[2:], expected[2:], strict=True))


def test_grl_classifier_gradient_is_numerically_right() -> None:
    alignment = build("grl")
    rows = complete(alignment, batch(3))
    assert rows.critic is not None
    bias = list(rows.critic.parameters())[-1]
    assert torch.autograd.gradcheck(lambda _: alignment(rows), bias)


def test_grl_without_its_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match="domain classifier"):
        build("grl")(batch())


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_contrastive_gradient(negatives: str) -> None:
    alignment, rows = build("contrastive", negatives=negatives), batch(3, 3)

    def loss(source: torch.Tensor, trusted: torch.Tensor, pushed: torch.Tensor) -> torch.Tensor:
        return alignment(Batch(source, trusted, pushed, rows.centre))

    inputs = tuple(x.clone().requires_grad_() for x in (rows.source, rows.trusted, rows.negatives))
    assert torch.autograd.gradcheck(loss, inputs)


def test_mmd_gradient_with_its_bandwidth_held_fixed() -> None:
    """The bandwidth is a constant of the batch: analytic and numeric gradients agree once it cannot move."""
    alignment, rows = build("mmd"), batch(4)
    source, trusted = (x.clone().requires_grad_() for x in (rows.source, rows.trusted))
    analytic = torch.autograd.grad(alignment(batch_of(source, trusted)), trusted)[0]
    squared = torch.cdist(torch.cat([source, trusted]), torch.cat([source, trusted])).square()
    scale = squared.mean().item()

    def fixed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        def kernel(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
            distance = (p[:, None] - q[None]).square().sum(dim=2)
            return sum((-distance / (2 * a * scale)).exp() for a in (0.125, 0.25, 0.5, 1, 2)) / 5  # type: ignore[return-value]

        return kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()

    assert torch.autograd.gradcheck(fixed, (source, trusted))
    assert torch.allclose(analytic, torch.autograd.grad(fixed(source, trusted), trusted)[0], atol=1e-10)


def batch_of(source: torch.Tensor, trusted: torch.Tensor) -> Batch:
    return Batch(source, trusted, source[:0], source.mean(dim=0).detach())


def test_mmd_of_identical_sets_is_zero_and_of_equal_points_defined() -> None:
    rows = unit(6, 3)
    assert abs(build("mmd")(batch_of(rows, rows[[3, 1, 0, 5, 4, 2]])).item()) < 1e-12
    same = rows[:1].expand(6, -1).clone().requires_grad_()
    loss = build("mmd")(batch_of(same, same))
    assert loss.item() == 0
    assert torch.isfinite(torch.autograd.grad(loss, same)[0]).all()


def test_mmd_grows_with_the_shift() -> None:
    rows = unit(20, 3)
    away = F.normalize(torch.tensor([1.0, 0, 0, 0], dtype=torch.float64), dim=0)
    values = [
        build("mmd")(batch_of(rows, F.normalize(rows + shift * away, dim=1))).item() for shift in (0, 0.5, 2)
    ]
    assert values == sorted(values) and values[2] > 0.1


@pytest.mark.parametrize("negatives", NEGATIVES)
def test_contrastive_falls_when_pairs_get_closer(negatives: str) -> None:
    alignment = build("contrastive", negatives=negatives)
    rows = batch(4, 4, seed=2)
    target = rows.source.mean(dim=0, keepdim=True)
    values = []
    for share in (0.0, 0.3, 0.6, 0.9):
        moved = F.normalize((1 - share) * rows.trusted + share * target, dim=1)
        values.append(alignment(Batch(rows.source, moved, -rows.source, rows.centre)).item())
    if negatives == "in_batch":
        # All trusted images at one point: l_ij = log b, whatever the place.
        assert values[-1] == pytest.approx(math.log(4), abs=0.15)
    else:
        assert values == sorted(values, reverse=True)


def test_contrastive_survives_a_tiny_tau() -> None:
    rows = batch(seed=4)
    for negatives in NEGATIVES:
        loss = build("contrastive", tau=1e-4, negatives=negatives)(
            Batch(rows.source.float(), rows.trusted.float(), rows.negatives.float(), rows.centre.float())
        )
        assert torch.isfinite(loss)


def test_contrastive_says_when_it_needs_negatives() -> None:
    needs = {name: build("contrastive", negatives=name).uses_negatives for name in NEGATIVES}
    assert needs == {"non_dominant": True, "in_batch": False, "both": True, "ignore_band": True}


@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.95), band=st.floats(0, 0.999))
def test_ignore_band_is_the_far_part_of_the_outside(seed: int, share: float, band: float) -> None:
    draws = np.random.default_rng(seed)
    target, source = draws.normal(size=(20, 3)), draws.normal(size=(8, 3))
    trusted = np.arange(20) < max(1, round(share * 20))
    if trusted.all():
        trusted[-1] = False
    assignment = trusted_assignment(target, trusted)
    mask = build("contrastive", negatives="ignore_band", band=band).negative_candidates(
        assignment, target, source
    )
    assert mask.dtype == bool and mask.any() and not (mask & trusted).any()
    near = [
        min(math.dist(row, target[trusted].mean(axis=0)), math.dist(row, source.mean(axis=0)))
        for row in target
    ]
    left = [near[i] for i in np.flatnonzero(~trusted & ~mask)]
    assert not left or max(left) <= min(near[i] for i in np.flatnonzero(mask))
    assert len(left) <= math.ceil(band * (~trusted).sum())


def test_ignore_band_of_equal_distances_is_not_empty() -> None:
    target = np.repeat(np.eye(3), [4, 3, 3], axis=0)
    assignment = trusted_assignment(target, np.arange(10) < 4)
    mask = build("contrastive", negatives="ignore_band", band=0.9).negative_candidates(
        assignment, target, np.eye(3)[:1]
    )
    assert mask.any() and not mask[:4].any()


@pytest.mark.parametrize("name", NAMES)
def test_candidates_are_the_images_outside(name: str) -> None:
    assignment = trusted_assignment(np.eye(4), np.array([True, True, False, False]))
    mask = build(name).negative_candidates(assignment, np.eye(4), np.eye(4))
    assert mask.tolist() == [False, False, True, True]


@pytest.mark.parametrize("values", [{"tau": 0}, {"tau": -1}, {"band": 1}, {"negatives": "none"}, {"temp": 1}])
def test_bad_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        build("contrastive", **values)
