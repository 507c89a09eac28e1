"""What `unsmear explain` draws: that it is true, and that any picture and any network can be drawn."""

import math
import re

import numpy as np
import pytest
import torch
from networks import awake, picture
from PIL import Image, ImageDraw
from torch.nn import functional

from unsmear import create_model
from unsmear.cli.explain import explain as command
from unsmear.errors import ModelError, OutOfMemoryError, UsageError
from unsmear.explain import draw, maps, run
from unsmear.explain.extent import LONGEST, measure_extent
from unsmear.explain.local import RADIUS, local_filters
from unsmear.explain.output import check_output, write_report
from unsmear.explain.page import render_page
from unsmear.explain.report import Panel, Report, Section
from unsmear.explain.sheet import render_sheet
from unsmear.models import save_model
from unsmear.models.network import Network

SMALL = {"widths": (6, 8), "lower_widths": None, "encoder_blocks": 1, "decoder_blocks": 1, "levels": 2}


@pytest.fixture
def saphn():
    return awake(create_model("saphn", **SMALL))


class Plain(Network):
    """A network that is no SAPHN: it moves the picture, and makes a smaller estimate on the way."""

    def __init__(self, move=2, factor=1.0):
        super().__init__(None, "plain")
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.move = move

    size_multiple = 4
    peak_bytes_per_pixel = 100.0

    def restore(self, x):
        return [functional.avg_pool2d(x, 2), torch.roll(x, self.move, 3) * self.factor]


def photo(height=96, width=128, seed=0):
    """A sharp picture full of edges in all directions, values in [0, 1]."""
    generator = np.random.default_rng(seed)
    img = Image.new("L", (4 * width, 4 * height), 120)
    pen = ImageDraw.Draw(img)
    for _ in range(60):
        x, y = generator.uniform(0, 4 * width), generator.uniform(0, 4 * height)
        pen.regular_polygon(
            (x, y, generator.uniform(20, 70)), 5, generator.uniform(0, 72), int(generator.uniform(0, 255))
        )
    gray = np.asarray(img.resize((width, height), Image.Resampling.BOX), np.float32) / 255
    return np.repeat(gray[..., None], 3, 2)


def smear(image, length, angle):
    """Straight, even motion, exactly, with what leaves on one side coming in on the other."""
    fy, fx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])
    factor = np.sinc(length * (fx * math.cos(angle) + fy * math.sin(angle)))[..., None]
    return np.fft.irfft2(np.fft.rfft2(image, axes=(0, 1)) * factor, image.shape[:2], axes=(0, 1)).clip(0, 1)


# What the network looked at


def test_only_the_maps_asked_for_are_kept(saphn):
    x = picture(saphn)
    all_of_it = maps.explain(saphn, x)
    name = next(iter(all_of_it.kernels))
    some = maps.explain(saphn, x, [name])
    assert [*some.kernels] == [name]
    assert not some.gather
    torch.testing.assert_close(some.kernels[name], all_of_it.kernels[name])
    torch.testing.assert_close(some.output, all_of_it.output)


def test_the_survey_rates_every_map(saphn):
    x = picture(saphn)
    told, found = maps.explain(saphn, x), maps.survey(saphn, x)
    assert [*found.attention] == [*told.gather]
    assert [*found.filters] == [*told.kernels]
    name = next(iter(told.gather))
    q, p = told.gather[name][0, 1], told.distribute[name][0, 1]
    relative = q / q.mean()
    assert float(found.attention[name][1]) == pytest.approx(
        float((relative * relative.log()).mean() * p.std()), rel=1e-3
    )
    assert {maps.block_of(name) for name in (*found.attention, *found.filters)} == set(maps.blocks(saphn))


def test_flat_maps_rate_nothing():
    network = create_model("saphn", **SMALL).eval()  # whose filters are ordinary convolutions
    assert not any(maps.survey(network, picture(network)).filters.values())
    assert all(maps.survey(awake(network), picture(network)).filters.values())


def test_filters_that_ignore_the_picture_do_not_turn(saphn):
    name = next(iter(maps.survey(saphn, picture(saphn)).filters))
    with torch.no_grad():
        saphn.get_submodule(name).generate.weight.zero_()
    x = picture(saphn)
    assert maps.turning(saphn, x, name, maps.explain(saphn, x, [name]).kernels[name]) == pytest.approx(-1, abs=1e-4)


def test_filters_that_know_no_direction_tell_nothing():
    network = create_model("saphn", **SMALL).eval()
    name, x = next(iter(maps.survey(network, picture(network)).filters)), picture(network)
    assert maps.turning(network, x, name, maps.explain(network, x, [name]).kernels[name]) == 0


def test_modules_are_told_in_words():
    assert maps.describe("encoders.0.blocks.1.0.module.filter") == "level 1, encoder"
    assert maps.describe("merges.0") == "level 1, attending to level 2"
    assert maps.block_of("merges.0") == "merges.0"


# The network as a filter


def test_the_filter_of_a_shift_is_a_shift():
    filters = local_filters(Plain(move=2), torch.rand(1, 3, 100, 96), 100, 96)
    side = 2 * RADIUS + 1
    assert filters.shape == (side**2, 2, 2)
    expected = torch.zeros(side, side)
    expected[RADIUS, RADIUS - 2] = 1  # what moves right comes from the left
    torch.testing.assert_close(filters[:, 1, 0].unflatten(0, (side, side)), expected)


def test_the_filter_of_nothing_is_one_pixel():
    network = create_model("saphn", **SMALL).eval()
    filters = local_filters(network, picture(network, 3, 3), 5, 5)
    assert filters.shape[1:] == (1, 1)
    assert filters[len(filters) // 2].item() == pytest.approx(1)
    assert filters.abs().sum().item() == pytest.approx(1, abs=1e-4)


# The extent of blur


@pytest.mark.parametrize("degrees", [0, 40, 90, 150])
def test_blur_is_found_with_its_direction(degrees):
    angle = math.radians(degrees)
    read = [
        measure_extent(smear(photo(192, 256), length, angle) if length else photo(192, 256)) for length in (0, 6, 12)
    ]
    assert read[0].typical < 3 < read[1].typical < read[2].typical < 18
    for extent in read[1:]:
        weight = extent.evidence * (1 - extent.roundness)
        found = np.angle(np.sum(weight * np.exp(2j * extent.angle))) / 2
        assert abs(math.remainder(found - angle, math.pi)) < math.radians(15)


def test_blur_is_found_where_it_is():
    sharp = photo(160, 320)
    mixed = np.concatenate([sharp[:, :160], smear(sharp, 9, 0.5)[:, 160:]], 1)
    length = measure_extent(mixed).length
    assert np.median(length[:, 12:]) > 2 * np.median(length[:, :8])


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (33, 17)])
def test_any_size_has_an_extent(shape):
    extent = measure_extent(np.random.default_rng(0).random((*shape, 3), np.float32))
    assert extent.length.shape == tuple(-(-side // 16) for side in shape)
    assert np.isfinite(extent.length).all()
    assert extent.length.max() <= LONGEST


def test_nothing_to_see_is_told():
    extent = measure_extent(np.full((40, 40, 3), 0.5, np.float32))
    assert not extent.is_seen.any()
    assert math.isnan(extent.typical)


# Drawing


def test_colors_can_be_told_apart_by_lightness():
    light = np.array([0.2126, 0.7152, 0.0722])
    for colors in (draw.sequential(np.linspace(0, 1, 50)), draw.diverging(np.linspace(0, -1, 50))[::-1]):
        assert (np.diff(colors @ light) > -1).all()
        assert (colors @ light)[-1] - (colors @ light)[0] > 120
    assert (np.diff(draw.diverging(np.linspace(0, 1, 50)) @ light) < 1).all()
    np.testing.assert_array_equal(draw.sequential(np.array([-1.0, np.nan, 2])), draw.sequential(np.array([0.0, 0, 1])))


def test_changes_are_amplified_by_what_is_told():
    change = np.full((4, 4, 3), 0.01)
    factor = draw.amplification(change)
    assert factor == 50
    assert (draw.amplified(change, factor) == round(127.5 + 255 * 0.5)).all()
    assert draw.amplification(change * 0) == 500
    assert draw.amplification(change * 200) == 1


def test_filters_are_drawn_where_they_apply():
    weights = np.zeros((9, 4, 6), np.float32)
    weights[5, :, 3:] = 1  # the tap to the right of the middle, in the right half
    drawn = draw.filters(np.zeros((40, 60, 3), np.uint8), weights, 0, 1, (2, 3), signed=False)
    is_set = (drawn == draw.sequential(np.array(1.0))).all(2)
    assert not is_set[:, : drawn.shape[1] // 3].any()
    columns = np.nonzero(is_set[:, 2 * drawn.shape[1] // 3 :].any(0))[0]
    pitch = drawn.shape[1] // 3
    assert columns.min() > pitch / 2  # right of the middle of its tile
    assert is_set.any(1).sum() == 2 * len(columns)  # square taps in both rows


# Sheets and pages


@pytest.fixture
def report():
    legend = draw.Legend(draw.sequential(np.linspace(0, 1, 9)), ("0", "1 px"))
    panels = [Panel(f"panel {i}", "words " * 30, np.full((30, 50, 3), 9, np.uint8), legend, i == 1) for i in range(4)]
    return Report("a <b> & c " + "x" * 300, "below", [Section("part", "text", panels), Section("none", "", panels[:1])])


def test_a_sheet_holds_everything(report):
    sheet = render_sheet(report)
    assert 1900 < sheet.width < 2200
    frame = np.asarray(sheet).copy()
    frame[40:-40, 40:-40] = 255
    assert (frame == 255).all()  # nothing runs over the edge


def test_a_page_needs_nothing_else(report):
    page = render_page(report)
    assert "a &lt;b&gt; &amp; c" in page
    assert page.count("<img src=") == 5
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "$" not in page
    assert page.isascii()


@pytest.mark.parametrize("shape", [(1, 1), (1, 90), (37, 61), (130, 50)])
def test_pictures_of_any_size_are_explained(saphn, shape):
    values = np.random.default_rng(0).random((*shape, 3), np.float32)
    told = run.explain_picture(saphn, values, name="x", whole=shape)
    titles = [section.title for section in told.sections]
    assert titles[:2] == ["The picture", "What was added"]
    assert len(titles) == 5
    assert [p.title for p in told.sections[1].panels] == ["Level 2", "Level 1", "All together"]
    assert all(p.picture.shape == (*shape, 3) for p in told.sections[0].panels + told.sections[2].panels)
    render_sheet(told)


def test_the_output_told_is_the_output(saphn):
    values = photo(32, 40)
    told = run.explain_picture(saphn, values, name="x", whole=(32, 40))
    with torch.no_grad():
        output = saphn(torch.from_numpy(values).permute(2, 0, 1)[None])[0].permute(1, 2, 0).clip(0, 1).numpy()
    np.testing.assert_allclose(told.sections[0].panels[1].picture, output * 255, atol=0.51)


@pytest.mark.parametrize(
    ("changed", "left"),
    [({"attention": False, "cross_attention": False}, "How it filtered"), ({"filtering": False}, "Where")],
)
def test_what_a_network_has_not_is_left_out(changed, left):
    network = awake(create_model("saphn", **SMALL | changed))
    sections = run.explain_picture(network, photo(32, 32), name="x", whole=(32, 32)).sections
    assert any(section.title.startswith(left) for section in sections)


def test_other_networks_get_what_every_network_has():
    told = run.explain_picture(Plain(), photo(50, 70), name="x", whole=(50, 70))
    assert [section.title for section in told.sections] == [
        "The picture",
        "What was added",
        "The network as a filter of the picture",
    ]
    assert [p.title for p in told.sections[1].panels] == ["Estimate 1", "All together"]
    assert told.sections[1].panels[0].picture.shape == (25, 35, 3)
    assert "SAPHN networks only" in told.subtitle
    with pytest.raises(UsageError, match="--block is for SAPHN"):
        run.explain_picture(Plain(), photo(), name="x", whole=(96, 128), block="merges.0")


def test_a_broken_network_is_told():
    with pytest.raises(ModelError, match="no finite numbers"):
        run.explain_picture(Plain(factor=float("nan")), photo(), name="x", whole=(96, 128))


def test_too_large_a_picture_is_told(monkeypatch):
    monkeypatch.setattr(run, "free_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match="--max-side"):
        run.explain_picture(Plain(), photo(), name="x", whole=(96, 128))


def test_a_block_can_be_chosen(saphn):
    told = run.explain_picture(saphn, photo(32, 32), name="x", whole=(32, 32), block="encoders.1.blocks.0.0")
    captions = [p.caption for section in told.sections[2:4] for p in section.panels if "blocks" in p.caption]
    assert len(captions) >= 4
    assert all("encoders.1.blocks.0.0" in caption for caption in captions)
    with pytest.raises(UsageError, match="no block 'nonsense'"):
        run.explain_picture(saphn, photo(32, 32), name="x", whole=(32, 32), block="nonsense")


# The command


@pytest.fixture
def weights(saphn, tmp_path):
    save_model(saphn, tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


def save(values, path, **options):
    Image.fromarray((values * 255).astype(np.uint8)).save(path, **options)
    return path


def test_the_command_writes_beside_the_photo(weights, tmp_path, capsys):
    source = save(photo(40, 60), tmp_path / "photo.png")
    assert command(source, model=weights, device="cpu") == 0
    with Image.open(tmp_path / "photo.explained.png") as sheet:
        assert sheet.format == "PNG"
    with pytest.raises(UsageError, match="exists already"):
        command(source, model=weights, device="cpu")
    command(source, tmp_path / "page.html", model=weights, device="cpu", max_side=32)
    assert "the middle 32 x 32 of 60 x 40 pixels" in capsys.readouterr().err
    assert "<!DOCTYPE html>" in (tmp_path / "page.html").read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "page.html",
        "photo.explained.png",
        "photo.png",
        "w.safetensors",
    ]


def test_photos_are_turned_upright(weights, tmp_path, capsys):
    exif = Image.Exif()
    exif[274] = 6
    source = save(photo(40, 60), tmp_path / "photo.jpg", exif=exif)
    command(source, tmp_path / "x.html", model=weights, device="cpu")
    assert "(40 x 60, " in capsys.readouterr().err


def test_the_blocks_are_listed(weights, saphn, tmp_path, capsys):
    source = save(photo(40, 60), tmp_path / "photo.png")
    command(source, model=weights, device="cpu", list_blocks=True)
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(maps.blocks(saphn))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("sheet.jpg", "picture .* or a page"),
        ("none/sheet.png", "no such folder"),
        ("photo.png", "replace the photo|picture"),
    ],
)
def test_bad_outputs_are_refused_first(output, message, tmp_path):
    source = save(photo(40, 60), tmp_path / "photo.png")
    with pytest.raises(UsageError, match=message):
        check_output(source, tmp_path / output, overwrite=True)


def test_reports_replace_what_was_there(report, tmp_path):
    for name in ("a.png", "a.HTML"):
        write_report(report, tmp_path / name)
        before = (tmp_path / name).read_bytes()
        write_report(report, tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
