"""CLIP's image tower as encoder (Radford et al. 2021, arXiv 2103.00020), from open_clip or a local file."""

from __future__ import annotations

import functools
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from trainables import weights
from trainables.encoders.base import ENCODERS, Encoder
from trainables.errors import TwofoldError, UnknownName, nearest_name
from trainables.images import ImageTransform
from trainables.networks import Pretrained
from trainables.seeding import stable_hash


@ENCODERS.register("open_clip")
class OpenClipEncoder(Encoder):
    """Image embeddings in CLIP's joint space; the text tower is dropped."""

    @staticmethod
    def describe(argument: str, image_size: int | None) -> Pretrained:
        """``open_clip:<model>/<tag or checkpoint path>``.

        Raises:
            UnknownName: open_clip has no such model or tag.
            TwofoldError: the checkpoint file is missing, or no weights are named.
        """
        model, source = weights.split_name(argument)
        config, tag = _model_config(model), _tag_config(model, source)
        known = source if tag else weights.checkpoint_identity(str(source))
        # a tag's file gives no better identity than its name: open_clip's version fixes what it points to
        content = weights.identity(f"open_clip:{model}", str(known), version("open_clip_torch"))
        return Pretrained(
            name=f"open_clip:{argument}",
            transform=_transform(argument, config, tag, image_size),
            mean=tuple(tag.get("mean") or _defaults()["mean"]),
            std=tuple(tag.get("std") or _defaults()["std"]),
            fingerprint=stable_hash(content),
            build=functools.partial(_build, model, str(source), tag, image_size),
        )

    @staticmethod
    def skeleton(argument: str, image_size: int | None) -> nn.Module:
        """The image tower alone; a tag says which activation it has."""
        import open_clip

        model, source = weights.split_name(argument)
        known = source in open_clip.list_pretrained_tags_by_model(model)
        return _create(model, _tag_config(model, source) if known else {}, image_size)


def _defaults() -> dict[str, Any]:
    from open_clip.transform import PreprocessCfg

    return asdict(PreprocessCfg())


def _model_config(model: str) -> dict[str, Any]:
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(model)
    if config is None:
        raise UnknownName(f"unknown open_clip model '{model}'.{nearest_name(model, open_clip.list_models())}")
    return config


def _tag_config(model: str, source: str | None) -> dict[str, Any]:
    """What open_clip knows of a tag; empty for a checkpoint file."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    known = f"Known: {', '.join(tags) or 'none, so name a file'}."
    if source is None:
        raise TwofoldError(
            f"`open_clip:{model}` names no weights; write `open_clip:{model}/<tag or path>`. {known}"
        )
    if source in tags:
        return dict(open_clip.pretrained.get_pretrained_cfg(model, source))
    if weights.is_checkpoint(source):
        return {}
    raise UnknownName(f"unknown weights '{source}' of open_clip:{model}.{nearest_name(source, tags)} {known}")


def _transform(
    argument: str, config: dict[str, Any], tag: dict[str, Any], image_size: int | None
) -> ImageTransform:
    own = config["vision_cfg"].get("image_size", 224)
    mode = tag.get("resize_mode") or _defaults()["resize_mode"]
    if not isinstance(own, int) or mode == "longest":
        raise TwofoldError(f"open_clip:{argument} takes padded or oblong images; choose another model.")
    interpolation = tag.get("interpolation") or _defaults()["interpolation"]
    return ImageTransform(image_size or own, interpolation, resize=mode)


def _build(model: str, source: str, tag: dict[str, Any], image_size: int | None) -> nn.Module:
    path = _download(model, source, tag) if tag else source
    size = f" at {image_size} pixels" if image_size else ""
    with weights.checkpoint_errors(path, f"open_clip:{model}{size}"):
        return _create(model, tag, image_size, pretrained=path, weights_only=True)


def _create(model: str, tag: dict[str, Any], image_size: int | None, **weights_: Any) -> nn.Module:
    import open_clip

    clip = open_clip.create_model(
        model,
        force_image_size=image_size,
        # open_clip only warns when a tag was trained with another activation than the model's
        force_quick_gelu=bool(tag.get("quick_gelu")),
        **weights_,
    )
    return _ImageTower(clip.visual)


def _download(model: str, tag_name: str, tag: dict[str, Any]) -> str:
    import open_clip

    repository = tag.get("hf_hub", "").rpartition("/")[0]
    url = weights.hub_url(repository) if repository else tag["url"]
    where = f"open_clip_model.safetensors of the Hugging Face repository {repository}" if repository else url
    quick = f"{model}-quickgelu"
    local = quick if tag.get("quick_gelu") and quick in open_clip.list_models() else model
    path: str = weights.fetch(
        f"open_clip:{model}/{tag_name}",
        url,
        f"download {where} and name the file as `open_clip:{local}/<path>`",
        lambda: open_clip.download_pretrained(tag),
    )
    return path


class _ImageTower(nn.Module):
    """The visual part of a CLIP model, its pooled output alone."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, 3, s, s) -> (b, d)."""
        outputs = self.visual(images)
        pooled: torch.Tensor = outputs[0] if isinstance(outputs, tuple) else outputs  # CoCa adds its tokens
        return pooled
