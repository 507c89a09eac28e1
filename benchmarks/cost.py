"""Parameters and multiply-accumulates of every network at 1280 x 720. Usage: python benchmarks/cost.py"""

from unsmear import create_model, list_models
from unsmear.cost import count_macs
from unsmear.models import count_parameters

for name in list_models():
    network = create_model(name)
    gmacs = count_macs(network, 720, 1280) / 1e9
    print(f"{name:10} {count_parameters(network):>12,} parameters {gmacs:>8.1f} GMAC")
