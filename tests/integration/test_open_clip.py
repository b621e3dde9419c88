"""A real open_clip architecture from a checkpoint, through encode, cache and sweep; and without weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Sweep, draw_domains, folder_data, refused, twofold, twofold_here, write_space

from orchestrator.plan import enumerate_grid
from orchestrator.prepare import ArrayName, domain_fingerprints, draw_settings, prepare

MODEL = "ViT-B-32"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The architecture with drawn weights, in half precision but for what open_clip interpolates."""
    import open_clip

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("clip") / "drawn.pt"
    state = open_clip.create_model(MODEL).state_dict()
    torch.save({k: v if k.endswith("positional_embedding") else v.half() for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def clip_sweep(ray_local: None, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("clip_sweep")
    data = folder_data(draw_domains(folder / "images"), classes=["plain bar", "Größe"], image_size=64)
    fixed = {"encoder": f"open_clip:{MODEL}/{checkpoint}"}
    space = write_space(folder / "clip.yaml", folder / "cache", data=data, fixed=fixed)
    first = twofold_here("sweep", space)
    assert first.code == 0, first.output
    return Sweep(space, (), first)


def test_units_of_an_open_clip_encoder_are_swept(clip_sweep: Sweep, checkpoint: Path) -> None:
    units = clip_sweep.units()
    assert len(units) == 6 and {unit["state"] for unit in units} == {"done"}
    assert all(f"open_clip:{MODEL}/{checkpoint}" in unit["config"] for unit in units)
    assert all(np.ptp(unit["test"]) > 0 for unit in units)


def test_features_are_those_of_open_clip_itself(clip_sweep: Sweep, checkpoint: Path) -> None:
    """The cached features against open_clip's own model and evaluation transform, image by image."""
    import open_clip
    from PIL import Image

    config = clip_sweep.config
    files = list((config.cache / "features").glob("*.arrow"))
    before = [file.stat().st_ino for file in files]
    prepared = prepare(config, enumerate_grid(config), draw_settings(config, domain_fingerprints(config)))
    assert files and [file.stat().st_ino for file in files] == before, "read, not written again"
    cached = prepared.arrays[ArrayName("features", f"open_clip:{MODEL}/{checkpoint}", "light")]
    assert cached.shape == (32 + 16, 512)
    model, _, transform = open_clip.create_model_and_transforms(
        MODEL, pretrained=str(checkpoint), force_image_size=64, weights_only=True
    )
    paths = sorted(Path(str(config.data.root), "light").rglob("*.png"))
    with torch.inference_mode():
        pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        features = model.eval().encode_image(pixels, normalize=True).numpy()
    nearest = (features @ cached.T).max(axis=1)
    assert nearest.min() > 0.9999
    assert len(set((features @ cached.T).argmax(axis=1))) == len(paths)


def test_a_pretrained_tag_without_network_and_cache_is_one_clear_error(
    clip_sweep: Sweep, tmp_path: Path
) -> None:
    data = clip_sweep.config.data.model_dump(mode="json", exclude_none=True)
    fixed = {"encoder": f"open_clip:{MODEL}/openai"}
    space = write_space(tmp_path / "clip.yaml", tmp_path / "cache", data=data, fixed=fixed)
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    proxies = {**nowhere, **{name.upper(): value for name, value in nowhere.items()}}
    caches = {"HF_HOME": str(tmp_path / "hub"), "XDG_CACHE_HOME": str(tmp_path / "home")}
    done = twofold("sweep", space, env={**proxies, **caches, "HF_HUB_OFFLINE": "0", "HOME": str(tmp_path)})
    refused(done, f"open_clip:{MODEL}/openai", "not on this machine", "download", "name the file as")
    assert done.seconds < 30
    assert not list((tmp_path / "clip" / "units").glob("*.arrow"))
