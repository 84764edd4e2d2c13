import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.convert.registry import entry
from stedm_jax.convert.tables import diffusers_autoencoder, ldm_autoencoder
from stedm_jax.convert.torch_names import from_torch, to_torch
from stedm_jax.convert.weight_files import Tensors
from stedm_jax.models import autoencoder as ae
from stedm_jax.models.functional import Functional, param_count
from stedm_jax.models.layers import norm_groups
from stedm_jax.training.param_paths import named
from tests.models.fakes import random_params


def small(kind, dtype=jnp.float32, **kw):
    sizes = {"channels": 8, "multipliers": (1, 2, 2), "res_blocks": 1, "codes": 32}
    return Functional(lambda make: ae.Autoencoder(make, kind=kind, **{**sizes, **kw}), dtype)


def published(kind, multipliers, latent):
    return Functional(
        lambda make: ae.Autoencoder(
            make, kind=kind, channels=128, multipliers=multipliers, latent_channels=latent
        )
    ).abstract


def test_published_sizes():
    vq = published("vq", (1, 2, 4), 3)
    assert param_count(vq["encoder"]) == 22_337_411
    assert param_count(vq["decoder"]) == 32_960_771
    assert param_count(vq["quantize"]) == 8192 * 3
    assert param_count(published("kl", (1, 2, 4, 4), 4)) == 83_653_863


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("size", [(16, 32), (64, 64)])
def test_shapes(kind, size):
    network = small(kind)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    z = jax.eval_shape(lambda p, x: network.apply(p, x, method="encode"), network.abstract, x)
    assert z.shape == (2, size[0] // 4, size[1] // 4, 6 if kind == "kl" else 3)
    z = jax.ShapeDtypeStruct((*z.shape[:-1], 3), jnp.float32)
    y = jax.eval_shape(lambda p, z: network.apply(p, z, method="decode"), network.abstract, z)
    assert y.shape == x.shape and y.dtype == jnp.float32


def test_odd_sizes_encode_to_the_size_rounded_down():
    network = small("kl")
    x = jax.ShapeDtypeStruct((1, 37, 46, 3), jnp.float32)
    z = jax.eval_shape(lambda p, x: network.apply(p, x, method="encode"), network.abstract, x)
    assert z.shape == (1, 9, 11, 6)


def test_downsampling_pads_on_the_far_side_only():
    down = Functional(lambda make: ae.Resample(make, 1, False))
    kernel = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    params = {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(down.apply(params, x), x[:, ::2, ::2])


def test_kl_of_a_standard_normal_is_zero_and_sampling_has_the_spread():
    network = small("kl")
    params = random_params(network)
    moments = jnp.zeros((1, 20, 20, 6))
    assert float(ae.kl_divergence(moments)) == 0
    assert float(ae.kl_divergence(moments + 1.0)) == pytest.approx(
        1200 * 0.5 * (1 + np.e - 2), rel=1e-4
    )
    moments = moments.at[..., 3:].set(2 * np.log(0.1)).at[..., :3].set(5.0)
    z = network.apply(params, moments, jax.random.key(1), method="sample")
    assert float(z.mean()) == pytest.approx(5, abs=0.02)
    assert float(z.std()) == pytest.approx(0.1, rel=0.1)
    np.testing.assert_array_equal(network.apply(params, moments, method="mode"), 5.0)


@pytest.mark.parametrize("pairs", [1 << 27, 100])
def test_quantization_takes_the_nearest_code(pairs, monkeypatch):
    monkeypatch.setattr(ae, "PAIRS", pairs)
    network = small("vq")
    params = random_params(network)
    codes = jax.random.normal(jax.random.key(3), (32, 3))
    params["quantize"]["embedding"]["embedding"] = codes
    z = jax.random.normal(jax.random.key(1), (2, 3, 5, 3))
    zq, loss, indices = jax.jit(lambda p, z: network.apply(p, z, method="nearest_codes"))(params, z)
    distance = np.square(np.asarray(z)[..., None, :] - np.asarray(codes)).sum(-1)
    np.testing.assert_array_equal(indices, distance.argmin(-1))
    np.testing.assert_allclose(zq, np.asarray(codes)[np.asarray(indices)], atol=1e-6)
    assert float(loss) == pytest.approx(1.25 * distance.min(-1).mean() / 3, rel=1e-4)


def test_the_gradient_of_quantization_goes_straight_through():
    network = small("vq")
    params = random_params(network)
    z, ct = jax.random.normal(jax.random.key(1), (2, 1, 2, 2, 3))

    def both(params, z):
        zq, loss, _ = network.apply(params, z, method="nearest_codes")
        return (zq * ct).sum(), loss

    def through(z):
        return both(params, z)[0]

    np.testing.assert_allclose(jax.jit(jax.grad(through))(z), ct, rtol=1e-6)
    grad = jax.jit(jax.grad(lambda params: both(params, z)[1]))(params)
    assert np.abs(grad["quantize"]["embedding"]["embedding"]).max() > 0


def test_training_gradients_reach_every_parameter():
    network = small("kl", multipliers=(1, 2))
    params = random_params(network)
    x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 3), minval=-1)

    def loss(params):
        y, kl = network.apply(params, x, jax.random.key(2))
        return jnp.square(y - x).mean() + 1e-3 * kl

    grads = jax.jit(jax.grad(loss))(params)
    flat = jax.tree_util.tree_flatten_with_path(grads)[0]
    dead = [jax.tree_util.keystr(path) for path, g in flat if not np.abs(g).max() > 0]
    assert dead == []


def test_bfloat16_compute_gives_float32_outside():
    network = small("kl", dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    y, loss = jax.eval_shape(network.apply, network.abstract, x)
    assert y.dtype == loss.dtype == jnp.float32


def test_the_legacy_codebook_loss_has_beta_on_the_other_term():
    params = random_params(small("vq"))
    z = jax.random.normal(jax.random.key(1), (1, 2, 2, 3))

    def gradients(legacy):
        network = small("vq", legacy_codebook=legacy)
        of = jax.jit(
            jax.grad(lambda p, z: network.apply(p, z, method="nearest_codes")[1], argnums=(0, 1))
        )
        codes, latent = of(params, z)
        return np.asarray(codes["quantize"]["embedding"]["embedding"]), np.asarray(latent)

    (codes, latent), (legacy_codes, legacy_latent) = gradients(False), gradients(True)
    np.testing.assert_allclose(legacy_codes, 0.25 * codes, rtol=1e-5)
    np.testing.assert_allclose(latent, 0.25 * legacy_latent, rtol=1e-5)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_names_are_those_of_ldm_both_ways(kind):
    params = random_params(small(kind))
    state = to_torch(params, ldm_autoencoder.TABLE)
    for name, shape in {
        "encoder.down.1.block.0.nin_shortcut.weight": (16, 8, 1, 1),
        "encoder.mid.attn_1.q.weight": (16, 16, 1, 1),
        "decoder.mid.attn_1.proj_out.bias": (16,),
        "decoder.up.2.upsample.conv.weight": (16, 16, 3, 3),
        "decoder.norm_out.weight": (8,),
        **({"quantize.embedding.weight": (32, 3)} if kind == "vq" else {}),
    }.items():
        assert state[name].shape == shape, name
    known = entry("ldm-vq-f4")
    whole = {
        f"first_stage_model.{name}": lambda value=value: value for name, value in state.items()
    }
    whole |= {"model.diffusion_model.out.2.weight": lambda: np.zeros(3)}
    whole |= {"first_stage_model.loss.logvar": lambda: np.zeros(())}
    found = Tensors(whole).renamed("a.ckpt", known.under, known.strip)
    back = from_torch(found, small(kind).abstract, ldm_autoencoder.TABLE, ignore=known.ignore)
    for path, leaf in named(back).items():
        np.testing.assert_array_equal(leaf, named(params)[path])


def diffusers_peer(kind, channels, multipliers, blocks, latent, codes):
    """The module of diffusers with random weights and our number of groups."""
    from tests import peers

    models = peers.peer("diffusers")
    widths = [channels * multiplier for multiplier in multipliers]
    shape = {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "latent_channels": latent,
        "norm_num_groups": 1,
    }
    theirs = (
        models.AutoencoderKL(**shape)
        if kind == "kl"
        else models.VQModel(**shape, num_vq_embeddings=codes)
    )
    for module in theirs.modules():
        if isinstance(module, peers.torch.nn.GroupNorm):
            module.num_groups = norm_groups(module.num_channels)
    return peers.randomise(theirs)


def check_against_diffusers(kind, multipliers, latent, *, channels, blocks, codes, gradients):
    from tests import peers

    theirs = diffusers_peer(kind, channels, multipliers, blocks, latent, codes)
    network = Functional(
        lambda make: ae.Autoencoder(
            make,
            kind=kind,
            channels=channels,
            multipliers=multipliers,
            res_blocks=blocks,
            latent_channels=latent,
            codes=codes,
            legacy_codebook=True,
        )
    )
    table = diffusers_autoencoder.table(len(multipliers))
    params = peers.mapped(theirs, network, table)
    state, back = peers.state_of(theirs), to_torch(params, table)
    assert state.keys() == back.keys() and all((state[name] == back[name]).all() for name in state)
    assert param_count(network.abstract) == sum(value.numel() for value in theirs.parameters())
    x = np.random.default_rng(0).uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
    image = peers.to_torch_image(x)

    def loss(params):
        y, extra = network.apply(params, jnp.asarray(x))
        return jnp.abs(y - x).mean() + (0.3 * extra if kind == "vq" else 1e-3 * extra)

    moments = jax.jit(lambda p: network.apply(p, jnp.asarray(x), method="encode"))(params)
    if kind == "vq":
        encoded = theirs.encode(image).latents
        quantized, commitment, _ = theirs.quantize(encoded)
        zq, extra, _ = network.apply(params, moments, method="nearest_codes")
        assert peers.relative_error(zq, peers.from_torch_image(quantized)) < peers.TOLERANCE
        decoded = theirs.decode(encoded).sample
        assert float(extra) == pytest.approx(commitment.item(), rel=1e-4)
        total = (decoded - image).abs().mean() + 0.3 * commitment
    else:
        posterior = theirs.encode(image).latent_dist
        encoded = peers.torch.cat([posterior.mean, posterior.logvar], 1)
        decoded = theirs.decode(posterior.mode()).sample
        total = (decoded - image).abs().mean() + 1e-3 * posterior.kl().mean()
    errors = [peers.relative_error(moments, peers.from_torch_image(encoded))]
    y = jax.jit(lambda p, z: network.apply(p, network.apply(p, z, method="mode"), method="decode"))(
        params, moments
    )
    errors.append(peers.relative_error(y, peers.from_torch_image(decoded)))
    if gradients:
        total.backward()
        value, grads = jax.jit(jax.value_and_grad(loss))(params)
        assert float(value) == pytest.approx(total.item(), rel=1e-4)
        errors.append(max(peers.gradient_errors(grads, theirs, network, table).values()))
    print(kind, multipliers, "encode, decode, gradient:", errors)
    assert max(errors[:2]) < peers.TOLERANCE
    assert not gradients or errors[2] < peers.TOLERANCE


PUBLISHED = [("vq", (1, 2, 4), 3), ("kl", (1, 2, 4), 3), ("kl", (1, 2, 4, 4), 4)]


@pytest.mark.parity
@pytest.mark.parametrize("kind, multipliers, latent", PUBLISHED)
def test_equals_diffusers(kind, multipliers, latent):
    check_against_diffusers(
        kind, multipliers, latent, channels=16, blocks=1, codes=64, gradients=True
    )


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("kind, multipliers, latent", PUBLISHED)
def test_equals_diffusers_at_full_size(kind, multipliers, latent):
    check_against_diffusers(
        kind, multipliers, latent, channels=128, blocks=2, codes=8192, gradients=False
    )


def test_older_diffusers_files_name_the_attention_otherwise() -> None:
    from stedm_jax.convert.torch_names import our_name, torch_name

    table = diffusers_autoencoder.table(3)
    for new, old, ours in (("to_q", "query", "q"), ("to_out.0", "proj_attn", "proj_out")):
        for name in (new, old):
            path = our_name(f"encoder.mid_block.attentions.0.{name}.weight", 2, table)[0]
            assert path == f"encoder/mid/attn_1/{ours}/kernel"
        assert torch_name(f"encoder/mid/attn_1/{ours}/bias", 1, table)[0].endswith(f"{new}.bias")
