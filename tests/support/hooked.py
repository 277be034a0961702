"""A Python that runs a hook before every program, for tests that change processes of the pipeline.

A `sitecustomize.py` on PYTHONPATH does not work, as those processes ignore Python's variables. Nor does one in the
environment, as Debian's Python has its own, which comes first.
"""

import sys
import sysconfig
from pathlib import Path


def python_with(folder: Path, hook: str) -> str:
    """Make an environment like that of this process, whose programs run `hook` first; return its interpreter."""
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    (folder / "bin").mkdir()
    base = Path(sys.executable).resolve()
    (folder / "bin/python").symlink_to(base)
    config = f"home = {base.parent}\ninclude-system-site-packages = false\n"
    (folder / "pyvenv.cfg").write_text(config, encoding="utf-8")
    these = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (packages / "these.pth").write_text(f"{these}import hook_of_a_test\n", encoding="utf-8")
    (packages / "hook_of_a_test.py").write_text(hook, encoding="utf-8")
    return str(folder / "bin/python")
