"""The Python blocks of the guide and of the READMEs run, page by page, in order, in one namespace.

A page is a session in a folder of its own. Blocks of commands that need what Python wrote are marked
`<!-- python -->` and run here too; all others are run by the Rust test `docs`. A block marked
`<!-- needs NAME -->` is left out where that package is missing."""

import importlib.util
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMENT = re.compile(r"<!-- (.*) -->$")


def blocks(text):
    """(line, language, comment before it, text) of each fenced block."""
    found, comment, inside = [], "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            if line.strip() == "```":
                found.append((*inside[:3], "".join(inside[3])))
                inside = None
            else:
                inside[3].append(line + "\n")
        elif line.startswith("```"):
            inside, comment = [number + 1, line[3:].strip(), comment, []], ""
        elif match := COMMENT.match(line):
            comment = match[1]
        elif line.strip():
            comment = ""
    assert inside is None, "a block without an end"
    return found


def pages():
    files = [ROOT / "README.md", ROOT / "python/README.md", *sorted((ROOT / "docs/src").rglob("*.md"))]
    return [f for f in files if any(b[1] == "python" for b in blocks(f.read_text(encoding="utf-8")))]


def missing(comment):
    """The package that a block needs and that is not there."""
    name = comment.removeprefix("needs ") if comment.startswith("needs ") else None
    return name if name and importlib.util.find_spec(name) is None else None


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`popgrad` on the PATH: the package's own, whatever is installed besides."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "popgrad"
    call = "import sys; sys.argv[0] = 'popgrad'; from popgrad.cli import main; sys.exit(main())"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{call}" "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(os.name == "nt", reason="pages have commands of a POSIX shell")
@pytest.mark.parametrize("page", pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_blocks_of_a_page_run_in_order(page, command, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.chdir(folder)
    names = {"__name__": "__page__"}
    left_out = set()
    for line, language, comment, text in blocks(page.read_text(encoding="utf-8")):
        if language == "sh" and comment == "python":
            done = subprocess.run(["sh", "-e", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, f"{page}:{line}: {done.stderr}"
        elif language == "python":
            if name := missing(comment):
                left_out.add(name)
                continue
            # Lines of a traceback are those of the page.
            exec(compile("\n" * (line - 1) + text, str(page), "exec"), names)
    if left_out:
        print("skipped, for want of", *sorted(left_out))


def test_pages_are_found():
    assert {"python/README.md", "docs/src/python.md"} <= {str(p.relative_to(ROOT)) for p in pages()}


def test_blocks_are_found():
    text = "<!-- needs x -->\n```python\na = 1\n```\n\nwords\n```sh\nb\n```\n"
    text += "<!-- python -->\n\n```sh\nc\n```\n"
    assert blocks(text) == [
        (3, "python", "needs x", "a = 1\n"),
        (8, "sh", "", "b\n"),
        (13, "sh", "python", "c\n"),
    ]
    assert missing("needs no_such_package") == "no_such_package" and missing("needs os") is None
    with pytest.raises(AssertionError, match="without an end"):
        blocks("```python\na\n")
