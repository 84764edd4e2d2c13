"""Large-Image-Diffusion's file as the stage guided: names, shapes, and a whole round trip."""

import numpy as np
import pytest

from stedm_jax.common.errors import UserError
from stedm_jax.convert import __main__ as command
from stedm_jax.convert.published_tables import tables
from stedm_jax.convert.torch_names import from_torch, our_name, to_torch, torch_name, torch_shape
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.guided import GuidedUNet
from stedm_jax.models.published_sizes import build_published
from stedm_jax.training.param_paths import named
from stedm_jax.training.weights_folder import load_folder, write_tensors
from tests.models.fakes import random_params

SMALL = {
    "in_channels": 3,
    "out_channels": 3,
    "base": 8,
    "multipliers": (1, 2),
    "res_blocks": 1,
    "heads": 1,
    "attention_at": (2,),
    "attention": "transformer",
    "context_dim": 6,
    "dim": 6,
    "widths": {"patch": 5, "region": 7},
}


def test_names_and_shapes_at_full_size_go_both_ways():
    network, (table,) = build_published("lid-guided"), tables("lid-guided")
    assert (
        param_count(network.abstract) == 401_511_427
        and param_count(network.abstract["unet"]) == 400_920_579
    )
    seen = {}
    for path, leaf in named(network.abstract).items():
        name, layout = torch_name(path, len(leaf.shape), table)
        seen[name] = torch_shape(leaf.shape, layout)
        assert our_name(name, len(seen[name]), table) == (path, layout)
    assert len(seen) == len(named(network.abstract))
    known = {
        "cond_stage_model.patch_fc.weight": (512, 384),
        "cond_stage_model.region_fc.weight": (512, 768),
        "cond_stage_model.region_fc.bias": (512,),
        "model.diffusion_model.time_embed.0.weight": (768, 192),
        "model.diffusion_model.input_blocks.0.0.weight": (192, 3, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (384, 512),
        "model.diffusion_model.middle_block.1.proj_in.weight": (960, 960, 1, 1),
        "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (192, 384, 1, 1),
        "model.diffusion_model.out.2.bias": (3,),
    }
    assert {name: seen.get(name) for name in known} == known


def test_a_small_one_survives_the_round_trip_and_the_rest_of_the_file_is_left_out():
    network = Functional(lambda make: GuidedUNet(make, **SMALL))
    params, (table,) = random_params(network, 3), tables("lid-guided")
    file = to_torch(params, table)
    assert all(name.startswith(("model.diffusion_model.", "cond_stage_model.")) for name in file)
    back = from_torch(file, network.abstract, table)
    for path, leaf in named(params).items():
        np.testing.assert_array_equal(named(back)[path], leaf, err_msg=path)
    other = file | {"cond_stage_model.patch_fc.weight": np.zeros((6, 9), np.float32)}
    with pytest.raises(UserError, match=r"patch_fc.weight \(6, 9\), needed \(6, 5\)"):
        from_torch(other, network.abstract, table)


@pytest.mark.slow
def test_the_whole_file_through_the_command(tmp_path):
    """At full size, with what else a checkpoint of latent diffusion holds."""
    network, (table,) = build_published("lid-guided"), tables("lid-guided")
    file = {}
    for number, (path, leaf) in enumerate(named(network.abstract).items()):
        name, layout = torch_name(path, len(leaf.shape), table)
        file[name] = np.full(torch_shape(leaf.shape, layout), number % 1000, np.float16)
    file |= {
        "betas": np.zeros(1000, np.float32),
        "first_stage_model.encoder.conv_in.bias": np.zeros(8, np.float32),
    }
    write_tensors(tmp_path / "model.safetensors", file)
    command.main(
        ["lid-tcga-brca-guided", str(tmp_path / "model.safetensors"), f"--out={tmp_path / 'out'}"]
    )
    params, info = load_folder(tmp_path / "out")
    assert info["parameters"] == 401_511_427 and set(info["left_out"]) == {
        "betas",
        "first_stage_model",
    }
    for number, path in enumerate(named(network.abstract)):
        assert named(params)[path].ravel()[0] == number % 1000
