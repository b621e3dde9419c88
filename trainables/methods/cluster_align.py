"""Cluster-and-align (Mejri et al., arXiv 2502.21022): L = lambda_1 L_dsvdd + lambda_2 L_uda, eq. 5 to 10."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from trainables.alignments.base import Batch
from trainables.backbones.base import Tail, build_backbone
from trainables.diagnostics import effective_rank, negatives_inside, score_spread
from trainables.errors import NonFinite, TwofoldError
from trainables.methods.base import METHODS, Method, Part, Rows, Training, TrainingInputs
from trainables.networks import best_device
from trainables.seeding import generator, stable_seed
from trainables.types import Assignment

EMBED_BATCH = 256
EMA_MOMENTUM = 0.9
CRITIC_RATE = 10.0
"""Learning rate of an alignment's own network over the backbone's, which is trained already."""
DIAGNOSED_ROWS = 128
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_ASSIGNMENT = tuple(field.name for field in fields(Assignment))


@METHODS.register("cluster_align")
class ClusterAlign(Method):
    """Tightens the source around a centre while the trusted target set is aligned with it."""

    uses_progress: ClassVar[bool] = False

    backbone: str = Field("efficientnet_lite0", description="trainable feature extractor Phi")
    finetune: Literal["full", "last_stage", "head"] = Field("last_stage", description="what is trained")
    embedding_dim: int | None = Field(None, ge=2, description="embedding size; null = pooled features")
    epochs: int = Field(6, ge=1, description="passes over the source")
    learning_rate: float = Field(1e-4, gt=0, description="Adam step size")
    batch_size: int = Field(32, ge=2, description="images per domain in a step")
    lambda_dsvdd: float = Field(1.0, ge=0, description="weight lambda_1 of the DSVDD loss")
    lambda_align: float = Field(1.0, ge=0, description="weight lambda_2 of the alignment loss")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the forward pass; weights, losses and steps are float32"
    )
    centre: Literal["fixed", "ema", "refresh"] = Field("fixed", description="how the centre c moves")

    def start(self, inputs: TrainingInputs) -> Training:
        """Build the backbone and the centre; nothing is trained yet."""
        return _Training(self, inputs)


class _Training(Training):
    """Eq. 10 by Adam over batches of source, trusted and, where used, negative target images."""

    def __init__(self, method: ClusterAlign, inputs: TrainingInputs) -> None:
        self._method = method
        self._inputs = inputs
        self._device = best_device()
        seed = stable_seed("weights", inputs.purpose, inputs.seed) % 2**31
        backbone = build_backbone(
            method.backbone, method.finetune, method.embedding_dim, inputs.image_size, seed=seed
        )
        self._tail = backbone.tail.to(self._device).to(memory_format=torch.channels_last)
        self._critic = _seeded(lambda: inputs.alignment.critic(backbone.embedding_dim), seed)
        if self._critic is not None:
            self._critic.to(self._device)
        # One kernel a step instead of several a weight.
        groups: list[dict[str, Any]] = [{"params": list(self._tail.parameters())}]
        if self._critic is not None:
            groups.append({"params": self._critic.parameters(), "lr": CRITIC_RATE * method.learning_rate})
        self._optimiser = torch.optim.Adam(groups, lr=method.learning_rate, fused=True)
        self._seen: deque[tuple[torch.Tensor, torch.Tensor]] = deque(
            maxlen=-(-DIAGNOSED_ROWS // method.batch_size)
        )
        self._resident: dict[Part, torch.Tensor] = {}
        self._epoch = 0
        self.assignment = inputs.assignment
        self._centre = self._mean_source_embedding()

    @property
    def centre(self) -> np.ndarray:
        """Hypersphere centre c: (e,)."""
        return np.asarray(self._centre.cpu().numpy())

    @property
    def tail(self) -> Tail:
        """The trained part of the backbone as it stands."""
        return self._tail

    def embed(self, part: Part) -> np.ndarray:
        """L2-normalised embeddings (n, e) of a part, in evaluation mode.

        Raises:
            NonFinite: an embedding is NaN or infinite.
        """
        rows = self._inputs.arrays.inputs[part]
        self._tail.eval()
        with torch.inference_mode():
            blocks = [
                self._forward(self._tensor(rows, slice(start, start + EMBED_BATCH)), part).cpu().numpy()
                for start in range(0, len(rows), EMBED_BATCH)
            ]
        return np.asarray(np.concatenate(blocks))

    def fit_epoch(self) -> dict[str, float]:
        """One pass over the source; losses are means over the steps, diagnostics are of the last ones."""
        self._epoch += 1
        with self._randomness_of_the_epoch():
            self._prepare_epoch()
            self._seen.clear()
            draws = generator("batches", self._inputs.purpose, self._inputs.seed, self._epoch)
            self._tail.train()
            batches = self._batches(draws)
            share = 1 / (len(batches) * self._method.epochs)
            begun = (self._epoch - 1) / self._method.epochs
            steps = [self._step(batch, begun + i * share) for i, batch in enumerate(batches)]
        losses = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        return losses | self._diagnose()

    def state(self) -> dict[str, torch.Tensor]:
        """Weights, buffers, Adam's moments and steps, the centre and the trusted set, by name."""
        found = self._weights()
        for name, weight in self._parameters():
            for kind, value in self._optimiser.state.get(weight, {}).items():
                found[f"adam.{kind}.{name}"] = value
        found["centre"] = self._centre
        if self.assignment is not None:
            for name in _ASSIGNMENT:
                found[f"assignment.{name}"] = torch.tensor(getattr(self.assignment, name))
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}

    def restore(self, state: Mapping[str, torch.Tensor], epoch: int) -> None:
        """Go on from ``state``, taken after ``epoch`` whole epochs of a training with equal inputs.

        Raises:
            ValueError: a name or a shape is not of this training, which is then unchanged.
        """
        self._check(state)
        self._epoch = epoch
        for prefix, module in self._modules.items():
            module.load_state_dict({name: state[f"{prefix}.{name}"] for name in module.state_dict()})
        self._optimiser.state.clear()
        for name, weight in self._parameters():
            for kind in _ADAM:
                if (value := state.get(f"adam.{kind}.{name}")) is not None:
                    self._optimiser.state[weight][kind] = _as_adam_keeps(kind, value, weight)
        self._centre = state["centre"].to(self._device, copy=True)
        if "assignment.trusted" in state:
            arrays = {name: state[f"assignment.{name}"].numpy().copy() for name in _ASSIGNMENT}
            self.assignment = Assignment(**arrays)

    def _check(self, state: Mapping[str, torch.Tensor]) -> None:
        """Refuse a state of other names or shapes; Adam has none before its first step."""
        shapes = {name: value.shape for name, value in self._weights().items()}
        shapes["centre"] = self._centre.shape
        found = {name: value.shape for name, value in state.items()}
        for name, weight in self._parameters():
            adam = {f"adam.{kind}.{name}": torch.Size() if kind == "step" else weight.shape for kind in _ADAM}
            shapes.update(adam if adam.keys() & found.keys() else {})
        if self.assignment is not None:
            n = torch.Size([len(self.assignment.labels)])
            # The centre has the size of the space in which the trusted set was found last.
            centre = found.get("assignment.centre", torch.Size())
            shapes.update({"assignment.labels": n, "assignment.trusted": n, "assignment.centre": centre})
        for name in sorted(shapes.keys() | found.keys()):
            if shapes.get(name) != found.get(name):
                raise ValueError(f"{name} is {found.get(name)}, and this training has {shapes.get(name)}")

    @property
    def _modules(self) -> dict[str, nn.Module]:
        """What is trained, by the prefix of its names in a state."""
        return {"tail": self._tail} | ({} if self._critic is None else {"critic": self._critic})

    def _weights(self) -> dict[str, torch.Tensor]:
        return {
            f"{prefix}.{name}": value
            for prefix, module in self._modules.items()
            for name, value in module.state_dict().items()
        }

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for prefix, module in self._modules.items():
            yield from module.named_parameters(prefix=prefix)

    @contextmanager
    def _randomness_of_the_epoch(self) -> Iterator[None]:
        """Whatever draws from torch's global generators inside draws the same, whatever ran before."""
        devices = [torch.cuda.current_device()] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(stable_seed("epoch", self._inputs.purpose, self._inputs.seed, self._epoch))
            yield

    def _prepare_epoch(self) -> None:
        """Re-cluster in the backbone's own space, and move the centre, where the configuration says so."""
        if self._inputs.recluster is not None and self._epoch > 1:
            self.assignment = self._inputs.recluster(self.embed("target_fit"))
        if self._method.centre != "fixed" and self._epoch > 1:
            momentum = EMA_MOMENTUM if self._method.centre == "ema" else 0.0
            self._centre = momentum * self._centre + (1 - momentum) * self._mean_source_embedding()

    def _mean_source_embedding(self) -> torch.Tensor:
        return torch.from_numpy(self.embed("source_fit").mean(axis=0)).to(self._device)

    def _batches(self, draws: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row positions of (source, trusted, negatives) for every step of an epoch."""
        n = len(self._inputs.arrays.inputs["source_fit"])
        size = min(self._method.batch_size, n)
        steps = -(-n // size)
        trusted, negatives = self._target_pools()
        return list(
            zip(
                np.array_split(draws.permutation(n), steps),
                _draw(trusted, steps, size, draws),
                _draw(negatives, steps, size, draws),
                strict=True,
            )
        )

    def _target_pools(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions in T_fit that may be positives, and positions that may be negatives in their part."""
        none = np.empty(0, dtype=np.int64)
        alignment = self._inputs.alignment
        if self.assignment is None or not alignment.uses_trusted:
            return none, none
        trusted = np.flatnonzero(self.assignment.trusted)
        if not alignment.uses_negatives:
            return trusted, none
        if self._inputs.negatives == "tiled":
            return trusted, trusted
        target, source = self._clustering_space()
        negatives = np.flatnonzero(alignment.negative_candidates(self.assignment, target, source))
        if len(negatives) == 0:
            # Without a negative the contrastive loss is exactly 0, whatever the embeddings.
            raise TwofoldError("no target image lies outside the trusted set; use negatives 'in_batch'")
        return trusted, negatives

    def _clustering_space(self) -> tuple[np.ndarray, np.ndarray]:
        """Features of T_fit and S_fit in the space in which the trusted set was found."""
        if self._inputs.recluster is not None and self._epoch > 1:
            return self.embed("target_fit"), self.embed("source_fit")
        features = self._inputs.arrays.features
        return features["target_fit"].all(), features["source_fit"].all()

    def _step(
        self, positions: tuple[np.ndarray, np.ndarray, np.ndarray], progress: float
    ) -> dict[str, float]:
        parts: tuple[Part, Part, Part] = ("source_fit", "target_fit", self._inputs.negatives)
        inputs = [self._drawn(part, rows) for part, rows in zip(parts, positions, strict=True)]
        embeddings = self._forward(torch.cat(inputs), "a batch")
        source, trusted, negatives = torch.split(embeddings, [len(rows) for rows in positions])
        self._seen.append((trusted.detach() if len(trusted) else source.detach(), negatives.detach()))
        weight = self._inputs.negative_weight
        # Kept from an alignment that does not say it uses it: trainings are shared on its word.
        progress = progress if self._inputs.alignment.uses_progress else 0.0
        batch = Batch(source, trusted, negatives, self._centre, weight, self._critic, progress)
        dsvdd = (batch.source - batch.centre).square().sum(dim=1).mean()
        align = self._inputs.alignment(batch)
        loss = self._method.lambda_dsvdd * dsvdd + self._method.lambda_align * align
        # One transfer, since each of them waits for the device.
        losses = torch.stack([loss, dsvdd, align]).tolist()
        if not np.isfinite(losses[0]):
            raise NonFinite(f"the loss is {losses[0]} in epoch {self._epoch}; try a lower learning_rate")
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return dict(zip(("loss", "loss_dsvdd", "loss_align"), losses, strict=True))

    def _diagnose(self) -> dict[str, float]:
        """Diagnostics of the last trusted embeddings of an epoch, or of the source without a target."""
        trusted, negatives = (torch.cat(blocks).cpu().numpy() for blocks in zip(*self._seen, strict=True))
        found = {
            "effective_rank": effective_rank(trusted),
            "score_spread": score_spread(trusted, self.centre),
        }
        if len(negatives):
            found["negatives_inside"] = negatives_inside(negatives, trusted, self.centre)
        return found

    def _forward(self, inputs: torch.Tensor, what: str) -> torch.Tensor:
        """Embeddings (b, e) of inputs (b, ...); an error says of ``what``, and in which epoch."""
        try:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._reduced):
                embeddings: torch.Tensor = self._tail(inputs)
        except NonFinite as error:
            raise NonFinite(f"{what} in epoch {self._epoch}: {error} Try a lower learning_rate.") from error
        return embeddings.float()

    @property
    def _reduced(self) -> bool:
        return self._method.precision == "bfloat16"

    def _drawn(self, part: Part, positions: np.ndarray) -> torch.Tensor:
        """Inputs of a batch; on a GPU of a part that stays there, if its free memory holds it four times."""
        rows = self._inputs.arrays.inputs[part]
        if self._device.type != "cuda":
            return self._tensor(rows, positions)
        if part not in self._resident:
            free, _ = torch.cuda.mem_get_info(self._device)
            if rows.array[:1].nbytes * len(rows) > free / 4:
                return self._tensor(rows, positions)
            self._resident[part] = self._tensor(rows, slice(None))
        return self._resident[part][torch.from_numpy(positions).to(self._device)]

    def _tensor(self, rows: Rows, positions: np.ndarray | slice) -> torch.Tensor:
        tensor = torch.from_numpy(rows.take(positions)).to(self._device)
        is_map = tensor.ndim == 4 and tensor.is_floating_point()
        return tensor.contiguous(memory_format=torch.channels_last) if is_map else tensor


def _seeded(build: Callable[[], nn.Module | None], seed: int) -> nn.Module | None:
    """What ``build`` makes, with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _draw(pool: np.ndarray, steps: int, size: int, draws: np.random.Generator) -> list[np.ndarray]:
    """``steps`` batches of ``size`` from the pool, every member once before any comes again."""
    if len(pool) == 0:
        return [pool] * steps
    rounds = -(-steps * size // len(pool))
    order = np.concatenate([draws.permutation(pool) for _ in range(rounds)])
    return [order[i * size : (i + 1) * size] for i in range(steps)]


def _as_adam_keeps(kind: str, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """A copy where Adam keeps it: steps in the CPU's memory, moments beside the weight in its layout."""
    if kind == "step":
        return value.clone()
    return torch.empty_like(weight, requires_grad=False).copy_(value)
