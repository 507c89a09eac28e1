"""NAFNet, MIMO-UNet, Restormer and MPRNet against their papers, and weights in the names of their authors.

Each graph is written down once more, as a function of tensors by their released names, which are made up at first use.
"""

import pytest
import torch
from networks import awake
from torch.nn import functional

from unsmear import create_model
from unsmear.convert import mimo_unet, mprnet, nafnet, restormer
from unsmear.errors import ModelError, UsageError


class Book(dict):
    """Tensors by released name. Those that are asked for are made: random, or without values for full sizes."""

    def __init__(self, device="cpu"):
        self.device, self.generator = device, torch.Generator().manual_seed(0)

    def get(self, name, *shape, scale=0.3, mean=0.0):
        if name not in self:
            meta = self.device == "meta"
            values = torch.empty(shape, device="meta") if meta else torch.randn(shape, generator=self.generator)
            self[name] = mean + scale * values
        assert self[name].shape == shape
        return self[name]

    def conv(self, x, name, channels, kernel=3, stride=1, groups=1, bias=True, padding=None):
        fan = x.shape[1] // groups * kernel**2
        weight = self.get(f"{name}.weight", channels, x.shape[1] // groups, kernel, kernel, scale=fan**-0.5)
        bias = self.get(f"{name}.bias", channels) if bias else None
        padding = kernel // 2 if padding is None else padding
        return functional.conv2d(x, weight, bias, stride, padding, groups=groups)

    def norm(self, x, name, eps):
        centered = x - x.mean(1, keepdim=True)
        x = centered / (centered.square().mean(1, keepdim=True) + eps).sqrt()
        weight, bias = self.get(f"{name}.weight", x.shape[1], mean=1.0), self.get(f"{name}.bias", x.shape[1])
        return x * weight[:, None, None] + bias[:, None, None]


def nafnet_graph(book, x, width, encoder, middle, decoder):
    def block(x, name):
        c = x.shape[1]

        def halves(y):
            return y[:, :c] * y[:, c:]

        y = book.conv(book.norm(x, f"{name}.norm1", 1e-6), f"{name}.conv1", 2 * c, 1)
        y = halves(book.conv(y, f"{name}.conv2", 2 * c, groups=2 * c))
        y = y * book.conv(y.mean((2, 3), keepdim=True), f"{name}.sca.1", c, 1)
        x = x + book.conv(y, f"{name}.conv3", c, 1) * book.get(f"{name}.beta", 1, c, 1, 1)
        y = halves(book.conv(book.norm(x, f"{name}.norm2", 1e-6), f"{name}.conv4", 2 * c, 1))
        return x + book.conv(y, f"{name}.conv5", c, 1) * book.get(f"{name}.gamma", 1, c, 1, 1)

    def blocks(x, name, number):
        for i in range(number):
            x = block(x, f"{name}.{i}")
        return x

    y, skips = book.conv(x, "intro", width), []
    for i, number in enumerate(encoder):
        y = blocks(y, f"encoders.{i}", number)
        skips.append(y)
        y = book.conv(y, f"downs.{i}", 2 * y.shape[1], 2, stride=2, padding=0)
    y = blocks(y, "middle_blks", middle)
    for i, number in enumerate(decoder):
        y = functional.pixel_shuffle(book.conv(y, f"ups.{i}.0", 2 * y.shape[1], 1, bias=False), 2)
        y = blocks(y + skips[-1 - i], f"decoders.{i}", number)
    return [book.conv(y, "ending", 3) + x]


def mimo_unet_graph(book, x, width, number):
    def conv(x, name, channels, kernel=3, relu=True, stride=1):
        x = book.conv(x, f"{name}.main.0", channels, kernel, stride)
        return x.relu() if relu else x

    def up(x, name, channels):
        weight = book.get(f"{name}.main.0.weight", x.shape[1], channels, 4, 4, scale=0.1)
        return functional.conv_transpose2d(x, weight, book.get(f"{name}.main.0.bias", channels), 2, 1).relu()

    def blocks(x, name):
        for i in range(number):
            y = conv(x, f"{name}.layers.{i}.main.0", x.shape[1])
            x = x + conv(y, f"{name}.layers.{i}.main.1", x.shape[1], relu=False)
        return x

    def shallow(x, name, c):
        y = conv(conv(x, f"{name}.main.0", c // 4), f"{name}.main.1", c // 2, 1)
        y = conv(conv(y, f"{name}.main.2", c // 2), f"{name}.main.3", c - 3, 1)
        return conv(torch.cat([x, y], 1), f"{name}.conv", c, 1, relu=False)

    def attend(x, y, name):
        return x + conv(x * y, f"{name}.merge", x.shape[1], relu=False)

    def fuse(features, name, channels):
        y = conv(torch.cat(features, 1), f"{name}.conv.0", channels, 1)
        return conv(y, f"{name}.conv.1", channels, relu=False)

    def half(x):
        return x[..., ::2, ::2]

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    w = width
    x2, x4 = half(x), half(half(x))
    first = blocks(conv(x, "feat_extract.0", w), "Encoder.0")
    second = attend(conv(first, "feat_extract.1", 2 * w, stride=2), shallow(x2, "SCM2", 2 * w), "FAM2")
    second = blocks(second, "Encoder.1")
    third = attend(conv(second, "feat_extract.2", 4 * w, stride=2), shallow(x4, "SCM1", 4 * w), "FAM1")
    third = blocks(third, "Encoder.2")
    skip2 = fuse([half(first), second, twice(third)], "AFFs.1", 2 * w)
    skip1 = fuse([first, twice(second), twice(twice(third))], "AFFs.0", w)
    y = blocks(third, "Decoder.0")
    estimates = [conv(y, "ConvsOut.0", 3, relu=False) + x4]
    y = blocks(conv(torch.cat([up(y, "feat_extract.3", 2 * w), skip2], 1), "Convs.0", 2 * w, 1), "Decoder.1")
    estimates.append(conv(y, "ConvsOut.1", 3, relu=False) + x2)
    y = blocks(conv(torch.cat([up(y, "feat_extract.4", w), skip1], 1), "Convs.1", w, 1), "Decoder.2")
    return [*estimates, conv(y, "feat_extract.5", 3, relu=False) + x]


def restormer_graph(book, x, width, numbers, refinement, heads):
    def conv(x, name, channels, kernel=1, groups=1):
        return book.conv(x, name, channels, kernel, groups=groups, bias=False)

    def attention(x, name, heads):
        b, c, h, w = x.shape
        qkv = conv(conv(x, f"{name}.qkv", 3 * c), f"{name}.qkv_dwconv", 3 * c, 3, 3 * c)
        q, k, v = (part.reshape(b, heads, c // heads, h * w) for part in qkv.split(c, 1))
        q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
        maps = torch.einsum("bhin,bhjn->bhij", q, k) * book.get(f"{name}.temperature", heads, 1, 1, mean=1.0)
        y = torch.einsum("bhij,bhjn->bhin", maps.softmax(-1), v)
        return conv(y.reshape(b, c, h, w), f"{name}.project_out", c)

    def feed(x, name):
        hidden = int(x.shape[1] * 2.66)
        y = conv(conv(x, f"{name}.project_in", 2 * hidden), f"{name}.dwconv", 2 * hidden, 3, 2 * hidden)
        return conv(functional.gelu(y[:, :hidden]) * y[:, hidden:], f"{name}.project_out", x.shape[1])

    def blocks(x, name, number, heads):
        for i in range(number):
            x = x + attention(book.norm(x, f"{name}.{i}.norm1.body", 1e-5), f"{name}.{i}.attn", heads)
            x = x + feed(book.norm(x, f"{name}.{i}.norm2.body", 1e-5), f"{name}.{i}.ffn")
        return x

    y, skips = conv(x, "patch_embed.proj", width, 3), []
    for i in range(3):
        skips.append(blocks(y, f"encoder_level{i + 1}", numbers[i], heads[i]))
        down = conv(skips[-1], f"down{i + 1}_{i + 2}.body.0", skips[-1].shape[1] // 2, 3)
        y = functional.pixel_unshuffle(down, 2)
    y = blocks(y, "latent", numbers[3], heads[3])
    for i in (2, 1, 0):
        y = functional.pixel_shuffle(conv(y, f"up{i + 2}_{i + 1}.body.0", 2 * y.shape[1], 3), 2)
        y = torch.cat([y, skips[i]], 1)
        if i:
            y = conv(y, f"reduce_chan_level{i + 1}", y.shape[1] // 2)
        y = blocks(y, f"decoder_level{i + 1}", numbers[i], heads[i])
    return [conv(blocks(y, "refinement", refinement, heads[0]), "output", 3, 3) + x]


def mprnet_graph(book, x, width, wider, third_wider, third_blocks):
    widths = [width, width + wider, width + 2 * wider]
    slope = book.get("shallow_feat1.1.body.1.weight", 1, mean=0.25)  # one for all

    def conv(x, name, channels, kernel=1):
        return book.conv(x, name, channels, kernel, bias=False)

    def block(x, name):
        c = x.shape[1]
        book[f"{name}.body.1.weight"] = slope
        y = functional.prelu(conv(x, f"{name}.body.0", c, 3), slope)
        y = conv(y, f"{name}.body.2", c, 3)
        gate = conv(y.mean((2, 3), keepdim=True), f"{name}.CA.conv_du.0", c // 4).relu()
        return x + y * conv(gate, f"{name}.CA.conv_du.2", c).sigmoid()

    def blocks(x, name, number=2):
        for i in range(number):
            x = block(x, f"{name}.{i}")
        return x

    def twice(x):
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def shallow(x, stage):
        return block(conv(x, f"shallow_feat{stage}.0", width, 3), f"shallow_feat{stage}.1")

    def encoder(x, stage, before=None):
        name, features = f"stage{stage}_encoder", []
        for i in range(3):
            if i:
                x = conv(functional.avg_pool2d(x, 2), f"{name}.down{i}{i + 1}.down.1", widths[i])
            x = blocks(x, f"{name}.encoder_level{i + 1}")
            if before:
                x = x + conv(before[0][i], f"{name}.csff_enc{i + 1}", widths[i])
                x = x + conv(before[1][i], f"{name}.csff_dec{i + 1}", widths[i])
            features.append(x)
        return features

    def decoder(features, stage):
        name = f"stage{stage}_decoder"
        third = blocks(features[2], f"{name}.decoder_level3")
        second = conv(twice(third), f"{name}.up32.up.1", widths[1]) + block(features[1], f"{name}.skip_attn2")
        second = blocks(second, f"{name}.decoder_level2")
        first = conv(twice(second), f"{name}.up21.up.1", widths[0]) + block(features[0], f"{name}.skip_attn1")
        return [blocks(first, f"{name}.decoder_level1"), second, third]

    def supervise(y, x, name):
        picture = conv(y, f"{name}.conv2", 3) + x
        return conv(y, f"{name}.conv1", width) * conv(picture, f"{name}.conv3", width).sigmoid() + y, picture

    def join(parts, dim):
        return [torch.cat(pair, dim) for pair in zip(*parts, strict=True)]

    halves, encoded, decoded, carried, first = x.chunk(2, 2), [], [], [], []
    for half in halves:
        encoded.append(join([encoder(shallow(quarter, 1), 1) for quarter in half.chunk(2, 3)], 3))
        decoded.append(decoder(encoded[-1], 1))
        features, picture = supervise(decoded[-1][0], half, "sam12")
        carried.append(features)
        first.append(picture)
    seconds = []
    for i, half in enumerate(halves):
        y = conv(torch.cat([shallow(half, 2), carried[i]], 1), "concat12", width, 3)
        seconds.append(encoder(y, 2, (encoded[i], decoded[i])))
    encoded2 = join(seconds, 2)
    decoded2 = decoder(encoded2, 2)
    features, second = supervise(decoded2[0], x, "sam23")
    channels = width + third_wider
    y = conv(torch.cat([shallow(x, 3), features], 1), "concat23", channels, 3)
    name = "stage3_orsnet"
    for i in range(3):
        body = f"{name}.orb{i + 1}.body"
        y = y + conv(blocks(y, body, third_blocks), f"{body}.{third_blocks}", channels, 3)
        for kind, source in (("enc", encoded2[i]), ("dec", decoded2[i])):
            if i == 1:
                source = conv(twice(source), f"{name}.up_{kind}1.up.1", widths[0])
            if i == 2:
                source = conv(twice(source), f"{name}.up_{kind}2.0.up.1", widths[1])
                source = conv(twice(source), f"{name}.up_{kind}2.1.up.1", widths[0])
            y = y + conv(source, f"{name}.conv_{kind}{i + 1}", channels)
    return [torch.cat(first, 2), second, conv(y, "tail", 3, 3) + x]


# Converter, graph, its arguments at a small size, those of each preset, and what the small one overrides.
PEERS = {
    "nafnet": (
        nafnet.convert,
        nafnet_graph,
        (4, (1, 2), 2, (2, 1)),
        {"nafnet": (64, (1, 1, 1, 28), 1, (1, 1, 1, 1)), "nafnet-32": (32, (1, 1, 1, 28), 1, (1, 1, 1, 1))},
        {"width": 4, "encoder_blocks": (1, 2), "middle_blocks": 2, "decoder_blocks": (2, 1)},
    ),
    "mimo-unet": (
        mimo_unet.convert,
        mimo_unet_graph,
        (8, 2),
        {"mimo-unet": (32, 8), "mimo-unet-plus": (32, 20)},
        {"width": 8, "blocks": 2},
    ),
    "restormer": (
        restormer.convert,
        restormer_graph,
        (8, (1, 2, 1, 1), 2, (1, 2, 2, 4)),
        {"restormer": (48, (4, 6, 6, 8), 4, (1, 2, 4, 8))},
        {"width": 8, "blocks": (1, 2, 1, 1), "refinement_blocks": 2, "heads": (1, 2, 2, 4)},
    ),
    "mprnet": (
        mprnet.convert,
        mprnet_graph,
        (8, 4, 8, 2),
        {"mprnet": (96, 48, 32, 8)},
        {"width": 8, "wider": 4, "third_wider": 8, "third_blocks": 2},
    ),
}


@pytest.fixture(params=PEERS)
def peer(request):
    return PEERS[request.param]


def test_released_weights_do_what_the_papers_say(peer):
    convert, graph, small, _, overrides = peer
    book, x = Book(), torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    expected = graph(book, x, *small)
    converted = convert({"weights": dict(book)})
    assert converted.overrides == overrides
    network = create_model(converted.model, **converted.overrides).eval()
    network.load_state_dict(converted.tensors)
    with torch.no_grad():
        for estimate, wanted in zip(network.estimates(x), expected, strict=True):
            torch.testing.assert_close(estimate, wanted, rtol=1e-4, atol=1e-4)


def test_every_released_tensor_of_the_presets_has_its_place(peer):
    convert, graph, _, presets, _ = peer
    for name, size in presets.items():
        book = Book("meta")
        graph(book, torch.empty(1, 3, 16, 16, device="meta"), *size)
        converted = convert({name: dict(book)})
        assert (converted.model, converted.overrides, converted.unused) == (name, {}, ())
        with torch.device("meta"):
            state = create_model(name).state_dict()
        assert {k: t.shape for k, t in converted.tensors.items()} == {k: t.shape for k, t in state.items()}


def test_weights_of_others_are_left_alone(peer):
    convert = peer[0]
    assert convert({"weights": {"layer.weight": torch.zeros(1)}}) is None
    assert convert({}) is None
    for other, graph, small, *_ in PEERS.values():
        if other is not convert:
            book = Book()
            graph(book, torch.rand(1, 3, 16, 16), *small)
            assert convert({"weights": dict(book)}) is None
            assert convert({"one": dict(book), "two": dict(book)}) is None


def test_tensors_that_are_missing_or_too_many_are_named(peer):
    convert, graph, small, *_ = peer
    book = Book()
    graph(book, torch.rand(1, 3, 16, 16), *small)
    with pytest.raises(ModelError, match=r"weights: .*extra\.weight is not known"):
        convert({"weights": dict(book) | {"extra.weight": torch.zeros(1)}})
    last = list(book)[-1]
    del book[last]
    with pytest.raises(ModelError, match=f"weights: .*{last} is missing"):
        convert({"weights": dict(book)})


def test_mimo_unet_plus_drops_features_in_training_only():
    network = awake(create_model("mimo-unet-plus", width=8, blocks=1, dropout=0.5))
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_estimates_of_mimo_unet_go_from_coarse_to_fine():
    estimates = create_model("mimo-unet", width=8, blocks=1).estimates(torch.rand(1, 3, 16, 24))
    assert [tuple(e.shape[2:]) for e in estimates] == [(4, 6), (8, 12), (16, 24)]


def test_impossible_sizes_are_refused():
    with pytest.raises(UsageError, match="same number of scales"):
        create_model("nafnet", decoder_blocks=(1,))
    with pytest.raises(UsageError, match="same number of scales"):
        create_model("restormer", heads=(1, 2))
    with pytest.raises(UsageError, match="divide into its heads"):
        create_model("restormer", heads=(1, 2, 4, 7))
