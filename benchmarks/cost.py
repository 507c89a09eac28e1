"""Parameters and multiply-accumulates of every network at 1280 x 720. Usage: python benchmarks/cost.py

Networks that do not take this size are counted at the next one that they take.
"""

import torch

from unsmear import create_model, list_models
from unsmear.cost import count_macs
from unsmear.models import count_parameters

for name in list_models():
    with torch.device("meta"):
        network = create_model(name)
    height, width = (-(-side // network.size_multiple) * network.size_multiple for side in (720, 1280))
    gmacs = count_macs(network, height, width) / 1e9
    print(f"{name:20} {count_parameters(network):>12,} parameters {gmacs:>8,.1f} GMAC at {width}x{height}")
