"""Who may import whom (docs/design.md): a row may import only the rows it stands on, and never a neighbour."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "firsthand"

GROUND = {"errors", "config", "files"}
MATTER = GROUND | {"tokenizer", "model"}
ALLOWED = {
    "errors": set(),
    "config": {"errors"},
    "files": {"errors"},
    "tokenizer": GROUND,
    "model": GROUND,
    "linear": GROUND | {"model"},
    "data": GROUND | {"tokenizer"},
    "objectives": MATTER | {"linear", "data"},
    "checkpoint": MATTER | {"linear", "data"},
    "interop": MATTER | {"linear", "data"},
    "training": MATTER | {"linear", "data", "objectives", "checkpoint", "interop"},
    "infer": MATTER | {"linear", "data", "objectives", "checkpoint", "interop"},
}
ALLOWED["evaluate"] = ALLOWED["training"] | {"training", "infer"}
ALLOWED["serve"] = ALLOWED["evaluate"] | {"evaluate"}
ALLOWED["run"] = ALLOWED["serve"] | {"serve"}
ALLOWED["study"] = ALLOWED["run"] | {"run"}
ALLOWED["journey"] = ALLOWED["study"] | {"study", "lessons"}  # the guided tour shows the lessons
ALLOWED["cli"] = {"run", "study", "journey", "config", "errors"}
ALLOWED["__main__"] = {"cli"}
ALLOWED["lessons"] = set()

OUTSIDE = {  # an outside library belongs to the one place that needs it
    "urllib.request": {"data/fetch.py"},
    "pyarrow": {"data/parquet.py"},
    "requests": set(),
    "huggingface_hub": set(),
    "cyclopts": {"cli"},
    "rich": {"cli", "training/track.py"},
    "matplotlib": {"study"},
    "fastapi": {"serve"},
    "transformers": set(),
    "tiktoken": set(),
    "tokenizers": set(),
    "peft": set(),
    "trl": set(),
    "datasets": set(),
    "gguf": set(),
    "xllamacpp": set(),
    "llguidance": {"infer/constrain.py"},
    "jinja2": {"tokenizer/sandbox.py"},
    "zipfile": {"data/fetch.py"},
    "subprocess": {"data/fetch.py", "tokenizer/template.py"},
    "ctypes": {"training/device.py", "infer/"},
    **{name: set() for name in ("pickle", "marshal", "shelve", "dbm", "yaml", "tarfile", "runpy", "dill", "joblib")},
}


def imports(path: Path) -> list[tuple[str, bool]]:
    """Every module a file imports, also inside functions, and whether it does so when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, id(node) in top) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            module = node.module or ""
            names = [f"{module}.{name.name}" for name in node.names] if module == "firsthand" else [module]
            found += [(name, id(node) in top) for name in names]
    return found


FILES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def row(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_only_what_it_stands_on(path):
    own = row(path)
    for module, _ in imports(path):
        parts = module.split(".")
        if parts[0] == "firsthand" and len(parts) > 1:
            assert parts[1] in {own, "__version__"} | ALLOWED[own], f"{path.name} imports {module}"
        for library in {module, parts[0]} & OUTSIDE.keys():
            place = str(path.relative_to(SOURCE))
            assert any(place.startswith(home) for home in OUTSIDE[library]), f"{place} imports {module}"


def test_the_model_needs_nothing_but_torch_and_its_config():
    allowed = {"torch", "firsthand", "pydantic"} | set(sys.stdlib_module_names)
    for path in (SOURCE / "model").glob("*.py"):
        for module, _ in imports(path):
            assert module.split(".")[0] in allowed, f"{path.name} imports {module}"


def test_lessons_need_nothing_but_torch_and_the_standard_library():
    allowed = {"torch"} | set(sys.stdlib_module_names)
    for path in (SOURCE / "lessons").glob("*.py"):
        for module, _ in imports(path):
            assert module.split(".")[0] in allowed, f"{path.name} imports {module}"


def test_no_data_can_become_code():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                name = f"{owner.id}.{node.func.attr}" if isinstance(owner, ast.Name) else node.func.attr
                assert name not in ("torch.load", "torch.save", "os.system", "os.popen"), f"{path.name}:{node.lineno}"
            for keyword in node.keywords if isinstance(node, ast.Call) else []:
                assert keyword.arg not in ("allow_pickle", "shell", "trust_remote_code"), f"{path.name}:{node.lineno}"


@pytest.mark.parametrize("module", ["firsthand", "firsthand.cli.main", "firsthand.config", "firsthand.files"])
def test_starting_does_not_import_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
