"""Networks against torchvision's and against the papers' equations; channel taps against plain hooks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from defenses.models import ModelSpec, Normalised, build_model, load_model
from defenses.models.taps import CHANNEL_STATISTICS, TAP_SETS, record_taps, tap_names
from defenses.registry import UserError
from defenses.training.precision import autocast

torch.set_num_threads(1)  # on a busy machine, threads that wait for each other make these tests ten times slower
NETWORKS = ("resnet18", "preact_resnet18")
# Stages 2, 3, 4 of ResNet-18 have 128, 256, 512 channels; each has four convolutions and one shortcut: 5 * 896 = 4,480.
# Stage 1 adds four convolutions of 64 and no shortcut. A stage has two blocks: 2 * 896 = 1,792.
TAPS_OF_18_LAYERS = {
    "convolutions": (15, 4480),
    "all_convolutions": (19, 4736),
    "blocks": (6, 1792),
    "last_three": (3, 1536),
}


def small(name: str = "resnet18", width: int = 4, blocks: tuple[int, ...] = (1, 1, 1, 1), size: int = 16) -> Normalised:
    return build_model(ModelSpec(name, width, blocks, 3, size), 0).eval()


def random_images(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module", params=NETWORKS)
def eighteen_layers(request: pytest.FixtureRequest) -> Normalised:
    """Both papers' networks at full width."""
    return build_model(ModelSpec(request.param, 64), 0).eval()


@torch.no_grad()
def test_every_tap_set_of_18_layers(eighteen_layers: Normalised) -> None:
    assert set(TAPS_OF_18_LAYERS) == set(TAP_SETS)
    image = random_images(1, 32)
    for taps, expected in TAPS_OF_18_LAYERS.items():
        names = tap_names(eighteen_layers, taps)
        with record_taps(eighteen_layers, names, "max") as seen:
            eighteen_layers(image)
        assert set(seen) == set(names)
        assert (len(names), sum(values.shape[1] for values in seen.values())) == expected


def test_tap_names_are_those_of_the_published_code() -> None:
    names = tap_names(build_model(ModelSpec(width=2, blocks=(2, 2, 1, 1)), 0), "convolutions")
    assert names == [
        "network.layer2.0.conv1",
        "network.layer2.0.conv2",
        "network.layer2.0.shortcut",
        "network.layer2.1.conv1",
        "network.layer2.1.conv2",
        "network.layer3.0.conv1",
        "network.layer3.0.conv2",
        "network.layer3.0.shortcut",
        "network.layer4.0.conv1",
        "network.layer4.0.conv2",
        "network.layer4.0.shortcut",
    ]
    assert tap_names(small(), "blocks") == ["network.layer2.0", "network.layer3.0", "network.layer4.0"]
    assert tap_names(small(), "last_three") == [f"network.layer4.0.{n}" for n in ("conv1", "conv2", "shortcut")]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_taps_come_in_the_order_of_the_forward_pass(name: str) -> None:
    model = small(name, blocks=(2, 2, 2, 2))
    names = tap_names(model, "all_convolutions")
    with record_taps(model, names, "max") as seen:
        model(random_images(1, 16))
    assert list(seen) == names


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "last_map"), [(16, 2), (32, 4), (33, 5), (224, 7)])
@torch.no_grad()
def test_stems_and_map_sizes(name: str, size: int, last_map: int) -> None:
    model = small(name, size=size)
    held: list[tuple[int, ...]] = []
    handle = model.network.layer4.register_forward_hook(lambda _m, _i, out: held.append(tuple(out.shape)))
    assert model(random_images(2, size)).shape == (2, 3)
    handle.remove()
    assert held == [(2, 32, last_map, last_map)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("width", "blocks"), [(1, (1, 1, 1, 1)), (7, (1, 2, 1)), (5, (3, 1, 1, 2)), (3, (1, 1))])
@torch.no_grad()
def test_odd_widths_and_blocks(name: str, width: int, blocks: tuple[int, ...]) -> None:
    model = small(name, width, blocks)
    assert model(random_images(3, 16)).shape == (3, 3)
    assert model.network.linear.in_features == width * 2 ** (len(blocks) - 1)
    # Two convolutions a block from stage 2 on, and the shortcut of each stage's first block.
    assert len(tap_names(model, "convolutions")) == 2 * sum(blocks[1:]) + len(blocks) - 1
    assert len(tap_names(model, "blocks")) == sum(blocks[1:])


def test_the_imagenet_stem_starts_at_96_px() -> None:
    assert build_model(ModelSpec(width=2, blocks=(1,), image_size=95), 0).network.conv1.kernel_size == (3, 3)
    large = build_model(ModelSpec(width=2, blocks=(1,), image_size=96), 0).network
    assert (large.conv1.kernel_size, large.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(large.pool, torch.nn.MaxPool2d)


@torch.no_grad()
def test_resnet18_computes_what_torchvisions_does() -> None:
    from torchvision.models import resnet18

    reference = resnet18(num_classes=30, weights=None).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh statistics are 0 and 1, and would hide a swapped layer
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    spec = ModelSpec("resnet18", 64, (2, 2, 2, 2), 30, 224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    ours = build_model(spec, 0).eval()
    renamed = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): tensor
        for name, tensor in reference.state_dict().items()
    }
    ours.network.load_state_dict(renamed)
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(images), reference(images), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_preactivation_computes_what_the_paper_draws() -> None:
    model = small("preact_resnet18", 4, (2, 1, 1, 1))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    state = model.state_dict()

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"network.{name}.running_mean"], state[f"network.{name}.running_var"]
        weight, bias = state[f"network.{name}.weight"], state[f"network.{name}.bias"]
        shape = (1, -1, 1, 1)
        scale = (weight / (var + 1e-5).sqrt()).view(shape)
        return torch.relu((x - mean.view(shape)) * scale + bias.view(shape))

    def convolve(name: str, x: Tensor, stride: int) -> Tensor:
        weight = state[f"network.{name}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)

    images = random_images(3, 16)
    x = convolve("conv1", (images.float() - 127.5) / 63.75, 1)
    for block, stride in (("layer1.0", 1), ("layer1.1", 1), ("layer2.0", 2), ("layer3.0", 2), ("layer4.0", 2)):
        activated = norm(f"{block}.bn1", x)
        shortcut = convolve(f"{block}.shortcut", activated, stride) if stride == 2 else x
        out = convolve(f"{block}.conv1", activated, stride)
        x = convolve(f"{block}.conv2", norm(f"{block}.bn2", out), 1) + shortcut
    pooled = norm("bn_last", x).mean(dim=(2, 3))
    expected = pooled @ state["network.linear.weight"].T + state["network.linear.bias"]
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_same_seed_same_weights_and_the_global_state_is_left_alone() -> None:
    spec = ModelSpec(width=4, blocks=(1, 1, 1, 1))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(spec, 5).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)  # another global state must make no difference
    again, other = build_model(spec, 5).state_dict(), build_model(spec, 6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.conv1.weight"], other["network.conv1.weight"])
    assert not torch.equal(first["network.linear.weight"], other["network.linear.weight"])


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_load_model_gives_the_stored_network(name: str) -> None:
    model = small(name)
    copy = load_model(ModelSpec(name, 4, (1, 1, 1, 1), 3, 16), model.state_dict()).eval()
    assert torch.equal(copy(random_images(2, 16)), model(random_images(2, 16)))


@torch.no_grad()
def test_normalised_takes_bytes_and_normalises_each_channel() -> None:
    spec = ModelSpec(width=2, blocks=(1,), num_classes=2, mean=(0.0, 100.0, 200.0), std=(1.0, 2.0, 50.0))
    model = build_model(spec, 0).eval()
    held: list[Tensor] = []
    handle = model.network.register_forward_pre_hook(lambda _m, inputs: held.append(inputs[0].clone()))
    images = random_images(2, 16)
    logits = model(images)
    handle.remove()
    expected = images.double()
    expected = torch.stack([expected[:, 0], (expected[:, 1] - 100) / 2, (expected[:, 2] - 200) / 50], dim=1)
    torch.testing.assert_close(held[0], expected.float())
    assert torch.equal(model(images.float()), logits)
    assert logits.dtype == torch.float32


def hooked(model: Normalised, names: list[str], images: Tensor) -> dict[str, Tensor]:
    """Whole maps, by plain hooks."""
    maps: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _m, _i, output: maps.__setitem__(name, output.clone())

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    model(images)
    for handle in handles:
        handle.remove()
    return maps


@pytest.mark.parametrize("taps", TAP_SETS)
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_statistics_are_reductions_of_the_maps(name: str, taps: str) -> None:
    model, images = small(name), random_images(3, 16)
    names = tap_names(model, taps)
    maps = hooked(model, names, images)
    for statistic in CHANNEL_STATISTICS:
        with record_taps(model, names, statistic) as seen:
            model(images)
        for tap in names:
            flat = maps[tap].flatten(2).double()
            expected = flat.sort(dim=2).values[:, :, -1] if statistic == "max" else flat.sum(dim=2) / flat.shape[2]
            torch.testing.assert_close(seen[tap].double(), expected, rtol=1e-5, atol=1e-6)
            assert seen[tap].dtype == torch.float32


@pytest.mark.parametrize("statistic", ["max", "mean"])
@torch.no_grad()
def test_statistics_of_bf16_maps_keep_float32_digits(statistic: str) -> None:
    model, images = small(), random_images(3, 16)
    names = tap_names(model, "blocks")
    with autocast(torch.device("cpu"), "bf16"):
        maps = hooked(model, names, images)
        with record_taps(model, names, statistic) as seen:
            model(images)
    assert maps[names[0]].dtype == torch.bfloat16
    for tap in names:
        wide = maps[tap].float()
        expected = wide.amax(dim=(2, 3)) if statistic == "max" else wide.mean(dim=(2, 3))
        torch.testing.assert_close(seen[tap], expected, rtol=1e-5, atol=1e-6)


def test_hooks_are_removed_even_after_an_error() -> None:
    model = small()
    names = tap_names(model, "all_convolutions")
    with record_taps(model, names, "max"):
        assert all(model.get_submodule(name)._forward_hooks for name in names)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="stop"), record_taps(model, names, "max"):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks for module in model.modules())


def test_taps_do_not_hold_the_graph() -> None:
    model = small().train()
    names = tap_names(model, "blocks")
    with record_taps(model, names, "max") as seen:
        model(random_images(2, 16))
    assert not any(values.requires_grad for values in seen.values())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet81"}, "did you mean 'resnet18'"),
        ({"width": 0}, "at least 1, got 0"),
        ({"blocks": ()}, "each stage"),
        ({"blocks": (2, 0)}, "each stage"),
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSpec(**values)  # type: ignore[arg-type]


def test_with_outputs_changes_only_the_head() -> None:
    spec = ModelSpec(width=4, num_classes=3)
    assert spec.with_outputs(6) == ModelSpec(width=4, num_classes=6)
    assert build_model(spec.with_outputs(6), 0).network.linear.out_features == 6
