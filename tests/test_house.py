"""The rules of the house that a machine can check: imports go one way, and the package stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ipt_datasets

PACKAGE = Path(ipt_datasets.__file__).parent
HEAVY = {"torch", "transformers", "vllm"}
LAYERS = [
    ("schema", "errors", "recipe", "durable"),
    ("synthesis.markup",),
    ("models",),
    ("synthesis",),
    ("templating",),
    ("corpus",),
    ("quality",),
    ("tasks",),
    ("tuning",),
    ("cli",),
]  # each may import what stands before it, and its own layer


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> int:
    fitting = [
        (len(name), number)
        for number, layer in enumerate(LAYERS)
        for name in layer
        if module == name or module.startswith(f"{name}.")
    ]
    assert fitting, f"{module} belongs to no layer: put it into one or name a new one here"
    return max(fitting)[1]


def imports_of(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
    return found


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_one_way(path):
    own = layer_of(module_name(path))
    for imported in imports_of(path):
        if imported.startswith("ipt_datasets."):
            assert layer_of(imported.removeprefix("ipt_datasets.")) <= own, f"{path.name} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_heavy_libraries_are_imported_inside_functions(path):
    assert not {name.split(".")[0] for name in imports_of(path, top_level_only=True)} & HEAVY


@pytest.mark.parametrize(
    "code",
    [
        "import ipt_datasets",
        "from ipt_datasets import Synthesizer, Templatizer, synthesize_batch, templatize_batch",
        "import ipt_datasets.cli as cli; cli._parser()",
        "import ipt_datasets as d; d.Synthesizer(engine='scripted').pairs('A short text about a cat.')",
    ],
)
def test_no_heavy_library_is_loaded_before_it_is_needed(code):
    probe = f"import sys; {code}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_the_package_imports_nothing_else():
    probe = "import sys; import ipt_datasets; print(*sorted(m for m in sys.modules if m.startswith('ipt_datasets')))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ipt_datasets"]


def test_every_public_name_is_there():
    for name in ipt_datasets.__all__:
        assert getattr(ipt_datasets, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Synthesiser'"):
        ipt_datasets.Synthesiser  # noqa: B018


def test_no_module_bears_the_name_of_the_package():
    # datasets refuses to load a folder `x` that holds `x.py`.
    assert not list(PACKAGE.rglob("ipt_datasets.py"))


def test_modules_stay_small():
    long = {path.name: n for path in SOURCES if (n := len(path.read_text("utf-8").splitlines())) > 330}
    assert not long
