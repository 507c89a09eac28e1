"""Train a network of the package on sharp photographs, blurred as they are drawn.

    python runs/train.py --photos DIR [--frames DIR] --out runs/out/saphn-s --minutes 90

Every batch is made of random crops: of photographs with synthetic motion blur, and, for a share of the batches, of
consecutive video frames averaged as the GoPro set was made. Blur grows from mild to strong over the run. The state
(network, its moving average, optimizer, progress) is written every few minutes, and `--resume` goes on from it.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from unsmear.data.blur import MEDIUM, MILD, STRONG, average_frames, synthesize
from unsmear.models import create_model, load_model, save_model


class BlurredCrops(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of (blurred, sharp) crops, for ever.

    Args:
        photos: Sharp pictures (H, W, 3) uint8.
        frames: Consecutive video frames (N, H, W, 3) uint8, or None.
        batch: Crops in a batch.
        size: Side of a crop.
        frame_share: Share of the batches that average frames.
        progress: One shared number, 0 at the start of the run and 1 at its end; the curriculum follows it.
        seed: First seed.
    """

    def __init__(self, photos, frames, batch, size, frame_share, progress, seed):
        self.photos, self.frames, self.batch, self.size = photos, frames, batch, size
        self.frame_share, self.progress, self.seed = frame_share, progress, seed

    def __iter__(self):
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(self.seed + int(time.time()) % 10**6)
        while True:
            if self.frames is not None and torch.rand((), generator=generator) < self.frame_share:
                yield self.averaged(generator)
            else:
                yield self.synthetic(generator)

    def synthetic(self, generator):
        # Strengths are drawn, ever more of the larger ones: nothing learned early is forgotten.
        progress = float(self.progress)
        weights = torch.tensor([1.0, 2.0 * progress, 2.0 * max(0.0, progress - 0.3)])
        # The margin is drawn around each crop so that what moves in from outside is real.
        config, margin = ((MILD, 8), (MEDIUM, 16), (STRONG, 40))[
            int(torch.multinomial(weights, 1, generator=generator))
        ]
        side = self.size + 2 * margin
        crops = torch.stack([self.textured(side, generator) for _ in range(self.batch)])
        return synthesize(crops.float().div_(255), config, generator, margin=margin)

    def textured(self, side, generator):
        """A crop that shows something: sky and bokeh teach little."""
        for _ in range(4):
            out = crop(self.photos[integer(len(self.photos), generator)], side, generator)
            if out[1].float().diff(dim=-1).abs().mean() > 3:
                break
        return out

    def averaged(self, generator):
        pairs = []
        for _ in range(self.batch):
            count = 3 + 2 * integer(6, generator)  # 3 to 13 frames
            first = integer(len(self.frames) - count + 1, generator)
            clip = crop(self.frames[first : first + count], self.size, generator)
            gamma = None if torch.rand((), generator=generator) < 0.7 else 2.2
            pairs.append(average_frames(clip.float().div_(255), gamma))
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])


def integer(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))


def crop(pixels: np.ndarray, side: int, generator: torch.Generator) -> Tensor:
    """A random crop (..., 3, side, side) of (..., H, W, 3), flipped and turned at random."""
    height, width = pixels.shape[-3:-1]
    top, left = integer(height - side + 1, generator), integer(width - side + 1, generator)
    out = torch.from_numpy(pixels[..., top : top + side, left : left + side, :].copy()).movedim(-1, -3)
    if integer(2, generator):
        out = out.flip(-1)
    return out.rot90(integer(4, generator), (-2, -1))


def read_pictures(folder: Path) -> list[np.ndarray]:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".png"})
    return [np.asarray(Image.open(p).convert("RGB")) for p in paths]


def charbonnier(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().add(1e-6).sqrt().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--num-frames", type=int, default=239, help="how many of the frames may be used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="saphn-s")
    parser.add_argument("--overrides", default="{}", help="JSON, fields of the network's configuration")
    parser.add_argument("--init", help="weights file to start from")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=200, help="steps")
    parser.add_argument("--frame-share", type=float, default=0.25)
    parser.add_argument("--start-progress", type=float, default=0.0, help="where on the curriculum to begin")
    parser.add_argument("--lower-weight", type=float, default=0.3, help="loss weight of each level below 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    network = load_model(args.init) if args.init else create_model(args.model, **json.loads(args.overrides))
    network = network.train().to(memory_format=torch.channels_last)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    step, spent = 0, 0.0
    state_file = args.out / "state.pt"
    if args.resume and state_file.exists():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]

    photos = read_pictures(args.photos)
    frames = np.stack(read_pictures(args.frames)[: args.num_frames]) if args.frames else None
    progress = torch.zeros(()).share_memory_()
    data = BlurredCrops(photos, frames, args.batch, args.size, args.frame_share, progress, args.seed)
    loader = iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))

    def save() -> None:
        state = {"network": network.state_dict(), "average": average.state_dict()}
        state |= {"optimizer": optimizer.state_dict(), "step": step, "spent": spent + time.time() - began}
        torch.save(state, f"{state_file}.part")
        os.replace(f"{state_file}.part", state_file)
        save_model(average.module, args.out / "weights.safetensors", notes={"steps": step})

    began = last_save = time.time()
    sums, count, skipped = {"before": 0.0, "after": 0.0, "loss": 0.0, "wait": 0.0}, 0, 0
    with (args.out / "log.jsonl").open("a") as log:
        while (fraction := (spent + time.time() - began) / (60 * args.minutes)) < 1:
            progress.fill_(args.start_progress + (1 - args.start_progress) * fraction)
            rate = args.lr * min(1, (step + 1) / args.warmup) * (0.01 + 0.99 * math.cos(math.pi / 2 * fraction) ** 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            waited = time.time()
            blurred, sharp = next(loader)
            sums["wait"] += time.time() - waited
            estimates = network.estimates(blurred.contiguous(memory_format=torch.channels_last))
            losses = [charbonnier(e, sharp) for e in estimates]
            loss = losses[-1] + args.lower_weight * sum(losses[:-1])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            if not norm.isfinite():
                skipped += 1
                if skipped > 20:
                    raise SystemExit(f"step {step}: twenty losses were not finite; lower --lr")
                continue
            optimizer.step()
            average.update_parameters(network)
            step += 1
            with torch.no_grad():
                sums["before"] += float((blurred - sharp).square().mean())
                sums["after"] += float((estimates[-1] - sharp).square().mean())
                sums["loss"] += float(losses[-1])
            count += 1
            if step % 50 == 0:
                row = {"step": step, "minutes": round((spent + time.time() - began) / 60, 2), "lr": rate}
                row |= {k: round(v / count, 6) for k, v in sums.items()}
                row["gain"] = round(10 * math.log10(sums["before"] / sums["after"]), 3)
                print(json.dumps(row), flush=True)
                log.write(json.dumps(row) + "\n")
                log.flush()
                sums, count = dict.fromkeys(sums, 0.0), 0
            if time.time() - last_save > 180:
                save()
                last_save = time.time()
    save()


if __name__ == "__main__":
    main()
