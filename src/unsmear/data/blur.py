"""Motion blur made from sharp pictures, with the sharp counterpart that belongs to it.

A blurred photograph is the average of all pictures the sensor saw while the shutter was open. Here those
sub-frames are warped copies of one sharp picture (and of objects cut from others), averaged in linear
light or, as in the `blur` folders of the GoPro data set, over the encoded values. The ground truth is
always the picture where the motion is zero, not warped at all: its average place during the exposure.
"""

from dataclasses import dataclass, fields

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from unsmear.data.camera import Camera, add_noise, compress_jpeg
from unsmear.data.trajectory import INSTANTS, draw_motion, motion_at, plan_exposure
from unsmear.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BlurConfig:
    """What blur to make. Shares and probabilities are in [0, 1]; pairs are (lowest, highest).

    Attributes:
        extent: largest motion of any point during the exposure, pixels of the given picture, >= 0.
        skew: extents are `extent * u ** skew` with u uniform in [0, 1]: 1 is even, more favors small blur.
        still: probability that a layer (nearly) stands still, moving by less than half a pixel.
        tremor: largest share of random tremor in a path, the rest being a smooth drift.
        rotation: largest roll of the camera, as travel of the corners relative to the translation, >= 0.
        zoom: largest zoom, in the same measure, >= 0.
        parallax: far things move this share less than near ones.
        layers: probability that objects move on their own in front of the picture.
        max_layers: largest number of such objects, >= 1.
        max_step: largest travel between two sub-frames, pixels, > 0; at least 7 sub-frames are used.
        encoded: probability of averaging encoded values, as frames of a high-speed camera with gaps
            between their exposures; otherwise light is averaged through a camera response curve.
        open_share: exposed share of a frame interval for such a camera, range within (0, 1].
        gamma: exponent of the response curve, range, > 0.
        contrast: largest strength of its S-shape, >= 0; 0 is a pure power law.
        saturation: probability that highlights are brighter than the sensor can record.
        highlight_gain: largest factor by which the brightest highlights exceed white, >= 1.
        shot_noise: largest variance of the noise per unit of light, where white is 1; small favored.
        read_noise: largest standard deviation of the noise in the dark, in the same unit; small favored.
        jpeg: probability of JPEG compression of the blurred picture.
        jpeg_quality: range of its quality setting, whole numbers within 1 to 100.
    """

    extent: float = 14.0
    skew: float = 1.3
    still: float = 0.1
    tremor: float = 0.7
    rotation: float = 0.35
    zoom: float = 0.15
    parallax: float = 0.5
    layers: float = 0.35
    max_layers: int = 2
    max_step: float = 1.0
    encoded: float = 0.4
    open_share: tuple[float, float] = (0.5, 1.0)
    gamma: tuple[float, float] = (1.8, 2.4)
    contrast: float = 2.0
    saturation: float = 0.25
    highlight_gain: float = 4.0
    shot_noise: float = 2e-4
    read_noise: float = 2e-3
    jpeg: float = 0.3
    jpeg_quality: tuple[int, int] = (60, 97)

    def __post_init__(self) -> None:
        """Raises `UsageError` for a value out of range."""
        for field in fields(self):
            low, high = _LIMITS.get(field.name, (0, 1))
            value = getattr(self, field.name)
            pair = isinstance(field.default, tuple)
            values = value if pair else (value, value)
            kind = int if field.name in ("max_layers", "jpeg_quality") else int | float
            numbers = isinstance(values, tuple) and all(isinstance(v, kind) for v in values)
            if not numbers or len(values) != 2 or not low <= values[0] <= values[1] <= high:
                what = "a pair (lowest, highest)" if pair else "a number"
                what = f"{what}, whole," if kind is int else what
                raise UsageError(f"BlurConfig: {field.name}={value} must be {what} within {low} to {high}")


# Fields that are no share or probability.
_LIMITS = {
    "extent": (0, 1000),
    "skew": (0.1, 10),
    "rotation": (0, 10),
    "zoom": (0, 10),
    "max_layers": (1, 16),
    "max_step": (0.05, 100),
    "open_share": (0.05, 1),
    "gamma": (0.5, 4),
    "contrast": (0, 10),
    "highlight_gain": (1, 100),
    "jpeg_quality": (1, 100),
}

MILD = BlurConfig(extent=5.0)
MEDIUM = BlurConfig(extent=14.0)
# The GoPro pictures move by some 10 to 45 pixels. Steps of 1.5 pixels leave no trace in paths this long.
STRONG = BlurConfig(extent=60.0, skew=1.2, still=0.05, max_step=1.5)
# The plain averages of the GoPro set, as compared in docs/blur.md; the noise is what averaging leaves.
GOPRO = BlurConfig(
    extent=55.0,
    skew=0.4,
    still=0.02,
    tremor=0.4,
    parallax=0.3,
    max_step=1.5,
    encoded=1.0,
    saturation=0.0,
    shot_noise=0.0,
    read_noise=0.02,
    jpeg=0.0,
)
# Nothing but straight motion of 3 to 7 pixels, mostly. A network that has met all kinds of blur at once goes on
# sharpening for tens of thousands of steps; this teaches it within hundreds what undoing a motion is.
CLEAN = BlurConfig(
    extent=7.0,
    skew=0.35,
    still=0.0,
    tremor=0.1,
    rotation=0.05,
    zoom=0.0,
    parallax=0.0,
    layers=0.0,
    encoded=1.0,
    saturation=0.0,
    shot_noise=0.0,
    read_noise=0.0,
    jpeg=0.0,
)
PRESETS = {"mild": MILD, "medium": MEDIUM, "strong": STRONG, "gopro": GOPRO, "clean": CLEAN}


@torch.no_grad()
def synthesize(
    sharp: Tensor, config: BlurConfig, generator: torch.Generator, *, margin: int = 0
) -> tuple[Tensor, Tensor]:
    """Blurs a batch of sharp pictures.

    Every sample draws from a seed of its own, so that it depends on the rest of the batch only where it
    borrows an object from another picture. Beyond its border a picture is continued by reflection; to
    keep that out of the result, hand over pictures that are larger by `margin` >= `config.extent` on
    every side.

    Args:
        sharp: sharp pictures, (B, 3, H + 2 * margin, W + 2 * margin), floating point in [0, 1].
        config: what blur to make.
        generator: source of all randomness; the same state gives the same bits on the same CPU.
        margin: pixels on every side that serve as source only.

    Returns:
        Blurred pictures and their sharp counterparts, both (B, 3, H, W) in [0, 1], dtype of the input.

    Raises:
        UsageError: the shape or the type of `sharp` does not fit.
    """
    _check_pictures("synthesize", sharp)
    if margin < 0 or min(sharp.shape[2:]) <= 2 * margin:
        raise UsageError(f"synthesize: margin={margin} leaves nothing of {tuple(sharp.shape[2:])} pixels")
    seeds = torch.randint(2**62, (len(sharp),), generator=generator, device=generator.device).tolist()
    pairs = [_synthesize_one(sharp.float(), i, config, seed, margin) for i, seed in enumerate(seeds)]
    blurred, truth = (torch.stack(pictures).to(sharp.dtype) for pictures in zip(*pairs, strict=True))
    return blurred, truth


def _synthesize_one(batch: Tensor, index: int, config: BlurConfig, seed: int, margin: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    device = batch.device
    size = (batch.shape[2] - 2 * margin, batch.shape[3] - 2 * margin)
    camera = _draw_camera(config, rng)
    planes = [camera.to_light(batch[index])]
    if _happens(config.layers, rng):
        for _ in range(_draw_whole(1, config.max_layers, rng)):
            planes.append(_draw_object(batch, index, camera, rng))
    motions = [
        draw_motion(
            size,
            draw_extent(config, rng),
            tremor=config.tremor,
            rotation=config.rotation,
            zoom=config.zoom,
            generator=rng,
        )
        for _ in planes
    ]
    exposure = _draw_frame_exposures(config, rng) if camera.gamma is None else torch.ones(INSTANTS - 1)
    instants, weights = plan_exposure(motions, size, exposure, config.max_step)
    steps = [motion_at(motion, instants).to(device) for motion in motions]
    nearness = (1 - config.parallax * _draw_smooth_map(size, 3, rng)).to(device)
    padding = "border" if margin >= config.extent else "reflection"
    light = _expose(planes, steps, weights.to(device), nearness, padding)

    # Squared, because most photographs are taken in good light; averaged frames have calmer noise.
    shot, read = (torch.rand(2, generator=rng) ** 2 / (1 if camera.gamma else 10)).tolist()
    light = add_noise(light, config.shot_noise * shot, config.read_noise * read, rng)
    blurred = camera.to_values(light)
    if _happens(config.jpeg, rng):
        blurred = compress_jpeg(blurred, _draw_whole(*config.jpeg_quality, rng))
    truth = _crop(batch[index], margin)
    if len(planes) > 1 or camera.highlight_gain > 1:
        truth = camera.to_values(_composite([_crop(plane, margin) for plane in planes]))
    return blurred, truth


def _happens(probability: float, rng: torch.Generator) -> bool:
    return float(torch.rand((), generator=rng)) < probability


def _draw_between(low: float, high: float, rng: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _draw_whole(low: int, high: int, rng: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=rng))


def _draw_camera(config: BlurConfig, rng: torch.Generator) -> Camera:
    if _happens(config.encoded, rng):
        return Camera(None)
    gamma = _draw_between(*config.gamma, rng)
    contrast = _draw_between(0, config.contrast, rng)
    gain = _draw_between(1, config.highlight_gain, rng) if _happens(config.saturation, rng) else 1.0
    return Camera(gamma, contrast, gain)


def draw_extent(config: BlurConfig, rng: torch.Generator) -> float:
    """The largest motion of any point of a picture, pixels."""
    amount = float(torch.rand((), generator=rng))
    if _happens(config.still, rng):
        return min(0.5, config.extent) * amount
    return config.extent * amount**config.skew


def _draw_frame_exposures(config: BlurConfig, rng: torch.Generator) -> Tensor:
    """Shutter transmission of an odd number of high-speed frames (GoPro: 7 to 13), gaps between them."""
    num_frames = 2 * _draw_whole(3, 6, rng) + 1
    phase = (torch.arange(INSTANTS - 1) + 0.5) / (INSTANTS - 1) * num_frames % 1
    return ((phase - 0.5).abs() <= _draw_between(*config.open_share, rng) / 2).float()


def _draw_smooth_map(size: tuple[int, int], cells: int, rng: torch.Generator) -> Tensor:
    """A smooth random map, (H, W) in [0, 1], with `cells` bumps along a side."""
    values = torch.rand(1, 1, cells, cells, generator=rng)
    return functional.interpolate(values, size, mode="bicubic", align_corners=True)[0, 0].clamp(0, 1)


def _draw_object(batch: Tensor, index: int, camera: Camera, rng: torch.Generator) -> Tensor:
    """Cuts a blob with a soft edge out of another picture, or out of the mirrored same if there is none.

    Returns:
        Light that the object sends and light that it lets through, (3 + 1, H, W).
    """
    height, width = batch.shape[2:]
    longer = max(height, width)
    donor = (index + _draw_whole(1, max(len(batch) - 1, 1), rng)) % len(batch)
    x, y, reach, softness = torch.rand(4, generator=rng).tolist()
    # Lengths are in halves of the longer side; the edge is 1 to 4 pixels wide.
    rows = (torch.arange(height)[:, None] - y * (height - 1)) * (2 / longer)
    columns = (torch.arange(width) - x * (width - 1)) * (2 / longer)
    bumps = 0.6 * (_draw_smooth_map((height, width), 7, rng) - 0.5)
    inside = 0.2 + 0.5 * reach + bumps - (rows**2 + columns**2).sqrt()
    clear = (0.5 - inside * longer / (2 + 6 * softness)).clamp(0, 1).to(batch.device)
    return torch.cat([camera.to_light(batch[donor].flip(-1)) * (1 - clear), clear[None]])


def _expose(planes: list[Tensor], motions: list[Tensor], weights: Tensor, nearness: Tensor, padding: str) -> Tensor:
    """Weighted average of the sub-frames, a few at a time to keep them in the cache.

    Args:
        planes: background (3, H + 2m, W + 2m) and objects (4, H + 2m, W + 2m) in front of it.
        motions: one motion a plane, (num_steps, 4, 2).
        weights: weight of every sub-frame, (num_steps,).
        nearness: share of its translation that the background makes, (H, W).
        padding: what lies beyond the planes, as `grid_sample` names it.
    """
    height, width = nearness.shape
    device = nearness.device
    y = torch.arange(height, device=device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=device) - (width - 1) / 2
    one = torch.ones_like(nearness)
    # grid_sample counts from -1 to 1 over a plane.
    unit = torch.tensor([2 / max(side - 1, 1) for side in (planes[0].shape[2], planes[0].shape[1])], device=device)
    rest = torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1]], device=device)
    grids = [(motion + rest) * unit for motion in motions]
    bases = [torch.stack([n, one, x * one, y * one]).flatten(1) for n in (nearness, one)]
    sources = [_double(plane)[None] for plane in planes]
    total = torch.zeros(3 * height * width, device=device)
    chunk = max(2, _CHUNK_PIXELS // (height * width))
    for start in range(0, len(weights), chunk):
        share = weights[start : start + chunk]
        frames = []
        for depth, source in enumerate(sources):
            steps = grids[depth][start : start + chunk].mT.flatten(0, 1)
            grid = (steps @ bases[min(depth, 1)]).view(-1, 2, height, width).permute(0, 2, 3, 1)
            source = source.expand(len(share), -1, -1, -1)
            frames.append(functional.grid_sample(source, grid, padding_mode=padding, align_corners=True))
        total += share @ _composite(frames).flatten(1)
    return total.view(3, height, width)


# Sub-frames rendered at once, in pixels.
_CHUNK_PIXELS = 2**17


def _composite(planes: list[Tensor]) -> Tensor:
    """Lays objects (..., 4, H, W) over a background (..., 3, H, W)."""
    picture = planes[0]
    for plane in planes[1:]:
        color, clear = plane.split([3, 1], dim=-3)
        picture = torch.addcmul(color, clear, picture)
    return picture


def _double(plane: Tensor) -> Tensor:
    """(C, H, W) to (C, 2H - 1, 2W - 1) by cubic interpolation; the given pixels stay as they are.

    Bilinear sampling of the doubled plane hardly softens it, whereas sampling the plane itself would
    teach the network to sharpen beyond the motion.
    """
    for _ in range(2):
        ends = functional.pad(plane, (0, 0, 1, 1), mode="replicate")
        between = (ends[:, 1:-2] + ends[:, 2:-1]) * 0.5625 - (ends[:, :-3] + ends[:, 3:]) * 0.0625
        doubled = plane.new_empty(plane.shape[0], 2 * plane.shape[1] - 1, plane.shape[2])
        doubled[:, ::2] = plane
        doubled[:, 1::2] = between
        plane = doubled.mT
    return plane


def _crop(plane: Tensor, margin: int) -> Tensor:
    return plane[:, margin : plane.shape[1] - margin, margin : plane.shape[2] - margin]


def _check_pictures(caller: str, pictures: Tensor) -> None:
    fits = pictures.ndim == 4 and pictures.shape[1] == 3 and pictures.numel() and pictures.is_floating_point()
    if not fits:
        what = f"{pictures.dtype} {tuple(pictures.shape)}"
        raise UsageError(f"{caller} needs floating point pictures of shape (N, 3, H, W), got {what}")


def average_frames(frames: Tensor, gamma: float | None = None) -> tuple[Tensor, Tensor]:
    """Averages consecutive frames of a high-speed video into one blurred picture.

    Args:
        frames: an odd number of frames, (N, 3, H, W), floating point in [0, 1].
        gamma: None averages the encoded values (GoPro `blur`); a number, such as 2.2, averages light
            (GoPro `blur_gamma`).

    Returns:
        The blurred picture and the middle frame, its sharp counterpart, both (3, H, W).

    Raises:
        UsageError: the number of frames is even, or the shape, type or gamma does not fit.
    """
    _check_pictures("average_frames", frames)
    if len(frames) % 2 == 0:
        raise UsageError(f"average_frames needs an odd number of frames, so that one is the middle; got {len(frames)}")
    if gamma is not None and not gamma > 0:
        raise UsageError(f"average_frames: gamma={gamma} must be above 0, or None for plain averaging")
    middle = frames[len(frames) // 2]
    if gamma is None:
        return frames.mean(0), middle
    return (frames**gamma).mean(0) ** (1 / gamma), middle


def contact_sheet(sharp: Tensor, config: BlurConfig, generator: torch.Generator, *, margin: int = 0) -> Image.Image:
    """Blurs pictures and lays each beside its sharp counterpart, blurred left, one pair a row.

    Args:
        sharp: as for `synthesize`.
        config: as for `synthesize`.
        generator: as for `synthesize`.
        margin: as for `synthesize`.

    Returns:
        An RGB picture of 2 * W by B * H pixels, plus 2 pixels of white between neighbors.
    """
    blurred, truth = synthesize(sharp, config, generator, margin=margin)
    rows = functional.pad(torch.cat([functional.pad(blurred, (0, 2), value=1.0), truth], 3), (0, 0, 0, 2), value=1.0)
    sheet = rows.float().permute(0, 2, 3, 1).flatten(0, 1)[:-2]
    return Image.fromarray(sheet.mul(255).round().byte().cpu().numpy())
