"""What the documents say is what the program does: help texts, error numbers, README commands, public names."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import firsthand
from firsthand.cli.explanations import EXPLANATIONS
from firsthand.errors import FirsthandError

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_public_names_are_these_and_no_others():
    names = "FirsthandError GPT ModelConfig Tokenizer __version__ generate load stream train"
    assert sorted(dir(firsthand)) == names.split()
    for name in dir(firsthand):
        assert getattr(firsthand, name) is not None


def test_a_public_name_stays_what_it_is_after_everything_was_imported():
    for module in pkgutil.walk_packages(firsthand.__path__, "firsthand."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in dir(firsthand):
        assert not inspect.ismodule(getattr(firsthand, name)), name


def test_an_unknown_public_name_lists_the_known_ones():
    try:
        firsthand.Tokeniser  # noqa: B018
    except AttributeError as error:
        assert "Tokenizer" in str(error)


def test_pages_made_from_the_program_are_up_to_date():
    made = subprocess.run(
        [sys.executable, ROOT / "tools/docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


def test_every_error_number_is_explained_and_every_explanation_is_used():
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    used = {f"FH{int(number):03d}" for number in re.findall(r"code=(\d+)", source)}
    used |= {f"FH{int(a):03d}" for pair in re.findall(r"code=(\d+) if .*? else (\d+)", source) for a in pair}
    used |= {f"FH{int(number):03d}" for number in re.findall(r"_between\(.*, (\d+)\)", source)}
    assert used - EXPLANATIONS.keys() == set()
    assert EXPLANATIONS.keys() - used == set()


def test_every_error_is_drawn_in_the_tree():
    drawn = (ROOT / "src/firsthand/errors.py").read_text(encoding="utf-8").split('"""')[1]
    for kind in FirsthandError.__subclasses__():
        if kind.__module__ == "firsthand.errors":
            assert kind.__name__ in drawn


def test_every_command_of_the_readme_exists_with_its_flags():
    pages = (ROOT / "docs/cli.md").read_text(encoding="utf-8").split("\n## ")
    known = {page.splitlines()[0].strip("`"): page for page in pages}
    commands = [
        line.split("#")[0] for block in blocks("sh") for line in block.splitlines() if line.startswith("firsthand ")
    ]
    assert len(commands) >= 8
    for command in commands:
        words = command.split()
        verb = next(name for name in (" ".join(words[:3]), " ".join(words[:2])) if name in known)
        for flag in re.findall(r"--[a-z-]+", command):
            assert flag in known[verb], f"{flag} is no flag of {verb}"


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_every_file_that_the_readme_links_to_is_there():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link


def test_the_python_of_the_readme_runs(tmp_path):
    (code,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
