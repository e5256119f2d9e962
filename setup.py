"""Build of the compiled core; everything else is in pyproject.toml.

The core is optional: without a compiler, or without Python's headers, the
install goes through and the pure twin serves.  Two variables change that:

BANANAS_REQUIRE_EXT=1  a core that cannot be built fails the install (images, wheels)
BANANAS_PURE=1         the core is not built at all (a wheel for any platform)

The generated C lies under build/cython, so that neither the package nor a
wheel ever holds it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = "bananas._speedups"
GENERATED = "build/cython"


def _is_set(variable: str) -> bool:
    """Whether the variable asks for something: 1, true, yes and on do, in any case."""
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}


class OptionalBuildExt(build_ext):
    """Build the core where that is possible, say so where it is not."""

    def build_extension(self, ext: Extension) -> None:
        """Translate and compile; a failure leaves the package pure unless it was demanded.

        `optional=True` alone is not enough: setuptools does not catch a compiler
        that is not there (FileNotFoundError), and cythonize() drops the mark.
        """
        try:
            from Cython.Build import cythonize  # noqa: PLC0415 - absent without build isolation

            (translated,) = cythonize(
                [Extension(ext.name, [_pyx(ext.name)])],
                build_dir=GENERATED,
                force=True,  # a new Cython does not change the .pyx, which tells its directives
                quiet=True,
            )
            ext.sources = list(translated.sources)
            ext.depends = []
            super().build_extension(ext)
        except Exception as failure:
            if _is_set("BANANAS_REQUIRE_EXT"):
                raise
            self._forget(ext)
            print(  # noqa: T201 - pip shows it with -v
                f"bananas: {ext.name} was not built ({type(failure).__name__}: {failure});"
                " the pure Python twin serves",
                file=sys.stderr,
            )

    def _forget(self, ext: Extension) -> None:
        """Remove what an earlier build left, lest an old core runs beside newer Python."""
        stale = [Path(self.get_ext_fullpath(ext.name))]
        if self.inplace or getattr(self, "editable_mode", False):
            stale.append(Path(self.get_ext_filename(ext.name)))
        for path in stale:
            path.unlink(missing_ok=True)


def _pyx(name: str) -> str:
    return name.replace(".", "/") + ".pyx"


def _extensions() -> list[Extension]:
    if _is_set("BANANAS_PURE"):
        if _is_set("BANANAS_REQUIRE_EXT"):
            raise SystemExit("BANANAS_PURE and BANANAS_REQUIRE_EXT contradict each other")
        # An editable install keeps its core beside the source, where it would still be found.
        for stale in Path("bananas").glob("_speedups.*.so"):
            stale.unlink()
        return []
    return [Extension(CORE, [_pyx(CORE)], optional=not _is_set("BANANAS_REQUIRE_EXT"))]


setup(ext_modules=_extensions(), cmdclass={"build_ext": OptionalBuildExt})
