"""When two results are the same: types, shapes and strings exactly, floats up to what their type resolves."""

import numpy as np

# Largest accepted difference, relative to the largest element and to the element itself. Oracles round every
# intermediate result to the type, we only the last.
RELATIVE = {"float64": 1e-9, "float32": 2e-4, "float16": 1e-2, "bfloat16": 5e-2}


def difference(wanted, have, random=False):
    """What differs, in words; empty when nothing does. Values of random operators are not compared."""
    if len(have) != len(wanted):
        return f"{len(have)} results instead of {len(wanted)}"
    for n, (want, got) in enumerate(zip(wanted, have)):
        # The command that runs a plan writes tensors only.
        text = "" if want is None or got is None else value(want, got, random)
        if text:
            return f"result {n}: {text}"
    return ""


def value(want, got, random):
    if isinstance(want, dict):
        if not isinstance(got, dict) or sorted(want) != sorted(got):
            return f"{got!r} instead of {want!r}"
        return value([want[k] for k in sorted(want)], [got[k] for k in sorted(want)], random)
    if isinstance(want, list):
        if not isinstance(got, list) or len(want) != len(got):
            return f"{got!r} instead of {want!r}"
        return next((text for pair in zip(want, got) if (text := value(*pair, random))), "")
    if isinstance(want, (int, float, str)):
        # A value of a map, for which Python has its own types.
        want = np.asarray(want).astype(np.asarray(got).dtype)
    return tensor(np.asarray(want), np.asarray(got), random)


def tensor(want, got, random):
    if is_text(want) and is_text(got):
        want, got = want.astype(str), got.astype(str)
    elif want.dtype.name != got.dtype.name:
        return f"type {got.dtype.name} instead of {want.dtype.name}"
    if want.shape != got.shape:
        return f"shape {list(got.shape)} instead of {list(want.shape)}"
    if random or want.size == 0:
        return ""
    limit = RELATIVE.get(want.dtype.name)
    if limit is None:
        same = bits(want) == bits(got)
    else:
        same = close(want.astype(np.float64), got.astype(np.float64), limit)
    if np.all(same):
        return ""
    at = np.unravel_index(np.argmin(same), want.shape)
    return f"{int(np.sum(~same))} of {want.size} elements, first at {list(map(int, at))}: {got[at]!r} instead of {want[at]!r}"


def is_text(array):
    return array.dtype.kind in "OUS"


def bits(array):
    """Elements as integers where numpy cannot compare them (small floats); NaNs are equal."""
    if array.dtype.name.startswith("float"):
        wide = array.astype(np.float32)
        return np.where(np.isnan(wide), np.float32(1e38), wide)
    return array


def close(want, got, limit):
    finite = np.isfinite(want)
    scale = np.abs(want[finite]).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        near = np.abs(want - got) <= limit * np.maximum(np.abs(want), 0.05 * scale) + limit * 1e-2
    return near | (want == got) | (np.isnan(want) & np.isnan(got))
