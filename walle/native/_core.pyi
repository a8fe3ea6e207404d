from typing import Any

# What cffi makes of walle.h. Its functions are typed by their wrappers in walle/native and
# walle/ring.
ffi: Any
lib: Any
