"""Builds csrc with CMake and ninja into the front_kernels package; everything else is in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

import cmake
import ninja
import pybind11
import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


# Extension -> CMake target. libfront_ops is no Python module, but a torch op library that front_kernels loads.
TARGETS = {"front_kernels._C": "_C", "front_kernels.libfront_ops": "front_library"}


class CMakeBuild(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        # Depending on the command, setuptools asks with or without the package in front.
        if fullname.rpartition(".")[2] == "libfront_ops":
            return str(Path(*fullname.split(".")).with_suffix(".so"))
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        # NOTE: setuptools builds an editable install's extensions elsewhere and copies only those back.
        in_place = self.inplace or self.editable_mode
        # An editable install is repeated, and pip gives each a new folder: what has not changed is not compiled again.
        kept = ROOT / "build" / f"editable-{sys.implementation.cache_tag}"
        build = kept if in_place else Path(self.build_temp).resolve()
        build.mkdir(parents=True, exist_ok=True)
        cuda = (ROOT / "front_kernels" if in_place else output) / "cuda"
        configure = {
            "CMAKE_BUILD_TYPE": "Debug" if self.debug else "Release",
            "CMAKE_MAKE_PROGRAM": Path(ninja.BIN_DIR) / "ninja",
            "FRONT_OUTPUT_DIR": output,
            "FRONT_CUDA_DIR": cuda,  # kernels compiled ahead, and the headers that NVRTC gets
            "FRONT_TORCH_DIR": Path(torch.__file__).parent,
            "FRONT_TORCH_VERSION": torch.__version__,
            "FRONT_VERSION": self.distribution.get_version(),
            "Python_EXECUTABLE": sys.executable,
            "pybind11_DIR": pybind11.get_cmake_dir(),
        }
        # NOTE: always given, since a kept build folder remembers what it was configured with.
        configure["FRONT_CUDA"] = os.environ.get("FRONT_CUDA", "AUTO")
        configure["FRONT_CUDA_ARCHS"] = os.environ.get("FRONT_CUDA_ARCHS", "80;90;100")
        tool = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
        flags = [f"-D{name}={value}" for name, value in configure.items()]
        subprocess.run([tool, "-S", ROOT, "-B", build, "-G", "Ninja", *flags], check=True)
        jobs = os.environ.get("MAX_JOBS")
        build_flags = ["--target", TARGETS[ext.name], *(["--parallel", jobs] if jobs else [])]
        subprocess.run([tool, "--build", build, *build_flags], check=True)
        if not in_place:  # what ptxas reported is for the tests
            for log in cuda.glob("*.log"):
                log.unlink()


setup(ext_modules=[Extension(name, sources=[]) for name in TARGETS], cmdclass={"build_ext": CMakeBuild})
