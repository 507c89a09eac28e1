"""The shape of the package: what is promised, which way imports point, and what must never be needed."""

import ast
import graphlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import unsmear

SOURCE = Path(unsmear.__file__).parent
# From the top of the house to the ground floor: a module may import from the layers below its own only.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["doctor", "train", "bench", "evaluation", "convert", "explain", "report"],
    ["treatment", "restore"],
    ["arrays", "pipeline"],
    ["batch", "device", "cost", "precision", "replay"],
    ["image", "models", "compare", "embed"],
    ["ops", "data", "checkpoint", "formats", "exif"],
    ["atomic", "process", "sharpness", "guard", "tiling", "paths"],
    ["errors", "samples", "finite"],
]
FLOOR = {name: number for number, names in enumerate(LAYERS) for name in names}


def modules():
    return sorted(p for p in SOURCE.rglob("*.py") if p.name != "__init__.py" or p.parent != SOURCE)


def home(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_promised_names():
    assert unsmear.__all__ == ["Deblurrer", "create_model", "deblur", "list_models", "load_model", "ops"]
    for name in unsmear.__all__:
        assert getattr(unsmear, name) is not None
    assert set(unsmear.__all__) <= set(dir(unsmear))


def test_imports_point_one_way():
    wrong = []
    for path in modules():
        for name in imports(path):
            if name.startswith("unsmear."):
                other = name.split(".")[1]
                same = home(path) == other
                if not same and FLOOR[home(path)] > FLOOR[other]:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_modules_do_not_need_each_other():
    """Not even within a package or a floor; imports inside functions may point back."""
    names = {path: ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in modules()}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    needs = {}
    for path, name in names.items():
        statements = [s for s in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(s, ast.ImportFrom)]
        imported = [(s.module, f"{s.module}.{a.name}") for s in statements for a in s.names]
        needs[name] = {inner if inner in names.values() else outer for outer, inner in imported} - {name}
    assert set(graphlib.TopologicalSorter(needs).static_order()) >= set(names.values())


def test_every_file_is_short_enough_to_read():
    assert not [p.name for p in modules() if len(p.read_text(encoding="utf-8").splitlines()) > 400]


def test_torchvision_is_never_needed():
    names = {name for path in modules() for name in imports(path)}
    assert not [n for n in names if n.split(".")[0] == "torchvision"]
    assert not [r for r in importlib.metadata.requires("unsmear") or [] if "torchvision" in r]


def test_importing_the_package_costs_nothing():
    code = "import sys, unsmear; print([m for m in ('torch', 'numpy', 'PIL', 'numba', 'typer') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_source_is_ascii():
    files = [p for folder in (SOURCE, Path(__file__).parent) for p in folder.rglob("*.py")]
    assert not [p.name for p in files if not p.read_text(encoding="utf-8").isascii()]
