"""The README keeps its promises: the two lines, the files and commands that it names."""

import re
from pathlib import Path

import pytest

from minigan.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_code_block_is_the_two_lines():
    block = re.search(r"(?:^    \S.*\n)+", README, re.M)[0]
    assert block.splitlines() == [
        "    python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/minigan train",
        "    python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest",
    ]


@pytest.mark.parametrize("document", [path for path in ROOT.glob("**/README.md") if ".venv" not in path.parts], ids=str)
def test_every_link_leads_to_a_file(document):
    text = document.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src="([^":]+)"', text)
    assert links or document != ROOT / "README.md"
    for link in links:
        assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_every_file_of_the_map_exists():
    section = README[README.index("## The map") : README.index("##", README.index("## The map") + 3)]
    names = re.findall(r"^    ([\w/]+\.\w+|[\w/]+/)", section, re.M)
    assert len(names) > 10
    for name in names:
        assert (ROOT / "minigan" / name).exists() or (ROOT / name).exists(), name


def test_every_command_is_known(capsys):
    commands = set(re.findall(r"(?:^    |`)minigan (\w+)", README, re.M))
    assert {"train", "sample", "evaluate", "gradcheck", "bench", "doctor"} <= commands
    for command in sorted(commands):
        with pytest.raises(SystemExit) as end:
            main([command, "--help"])
        assert end.value.code == 0, command
    capsys.readouterr()
