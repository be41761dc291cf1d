"""Two decoders that share an encoder, as ft-mse and ft-ema do, share its latents. Tiny networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from recipes import photo

from latentkit.jobs.command import as_overrides, run


@pytest.mark.slow
def test_the_second_decoder_takes_the_latents_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(3):
        Image.fromarray(photo(number, 40, 48)).save(f"photos/{number}.png")
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.18215,
    )
    for name in ("mse", "ema"):
        network.save_pretrained(name)
        with torch.no_grad():
            for parameter in network.decoder.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    options: dict[str, Any] = {"dataset": "folder", "dataset.root": "photos", "metric": "reconstruction"}
    options |= {"encode": True, "size": 32, "crop": "adm", "output_dir": "latents", "workers": 0}
    values = []
    for name in ("mse", "ema", "mse"):
        model = {"decoder.model": name}
        assert run("evaluate", as_overrides(options | model | {"report_dir": f"reports/{name}"})) == 0
        values.append(json.loads(Path(f"reports/{name}/report.json").read_text())["results"]["psnr"])
        assert ("to encode" in capfd.readouterr().err) == (len(values) == 1)
    assert values[0] == values[2] != values[1]
    Image.fromarray(photo(9, 40, 48)).save("photos/1.png")  # a limit is no reason to leave a change
    assert run("evaluate", as_overrides(options | {"decoder.model": "ema", "limit": 2})) == 1
    assert "holds other numbers" in capfd.readouterr().err  # the encoder's name is the other model's
    assert run("evaluate", as_overrides(options | {"decoder.model": "mse", "limit": 3})) == 0
    assert "1 to encode" in capfd.readouterr().err
