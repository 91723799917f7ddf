"""Write the table of the options of a run into minigan/README.md: `python -m minigan.training`."""

import re
from pathlib import Path

from minigan.files import write_atomically
from minigan.options import table
from minigan.training.config import Config


def main() -> None:
    """Replaces the table between the two markers in minigan/README.md."""
    path = Path(__file__).parent.parent / "README.md"
    block = f"<!-- options:begin -->\n{table(Config)}\n<!-- options:end -->"
    text = path.read_text(encoding="utf-8")
    new = re.sub(r"<!-- options:begin -->.*<!-- options:end -->", lambda _: block, text, flags=re.S)
    write_atomically(path, new.encode())


if __name__ == "__main__":
    main()
