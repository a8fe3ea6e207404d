"""What pyproject.toml cannot say: how the C core is built."""

from runpy import run_path

from setuptools import setup

BUILD = "walle/native/build_native.py"

setup(cffi_modules=[f"{BUILD}:ffi"], ext_modules=[run_path(BUILD)["entries"]])
