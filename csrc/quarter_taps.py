"""Prints the taps of the filter by which rows are decimated by four (filters.h).

y_j = sum_t h_t (x_{4j+1-t} + x_{4j+2+t}) has the response A(u) = sum_t h_t cos(pi (2t+1) u / 2n), and coefficients u <=
n / 8 are to be kept, whose aliases are n / 2 - u, n / 2 + u and n - u. A linear program finds, of all filters with
aliases of at most 6e-9 A(u), the one with the least ripple of A over what is kept. Rounding its taps to float32 moves
the aliases by as much and more; by how much depends on a factor that they all have in common, which is free (A is
divided by): the best of many is taken.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize

TAPS, KEPT, ALIASES, GAINS = 38, 1 / 8, 6e-9, 4000


def cosines(shares: np.ndarray) -> np.ndarray:
    return np.cos(np.pi * np.outer(shares, np.arange(TAPS // 2) + 0.5))


def main() -> None:
    u = KEPT * (1 - np.cos(np.pi * np.linspace(0, 1, 400))) / 2  # denser at both ends
    kept, aliases = cosines(u), [cosines(alias) for alias in (0.5 - u, 0.5 + u, 1 - u)]
    # Of (h, least A): A <= 1, least A <= A, +-A(alias) <= ALIASES A(u).
    none, all_ = np.zeros((len(u), 1)), np.ones((len(u), 1))
    rows = [np.hstack([kept, none]), np.hstack([-kept, all_])]
    rows += [np.hstack([sign * alias / ALIASES - kept, none]) for alias in aliases for sign in (1, -1)]
    limits = np.concatenate([np.ones(len(u)), np.zeros(7 * len(u))])
    costs = np.append(np.zeros(TAPS // 2), -1)
    found = scipy.optimize.linprog(costs, np.vstack(rows), limits, bounds=[(None, None)] * len(costs)).x[:-1]

    def worst(h: np.ndarray) -> float:
        return max(np.abs((alias @ h) / (kept @ h)).max() for alias in aliases)

    rounded = [(found * gain).astype(np.float32).astype(float) for gain in np.geomspace(1.5, 3, GAINS)]
    best = min(rounded, key=worst)
    response = kept @ best / 2
    print(f"aliases {worst(best):.2g}, response {response.min():.3f} to {response.max():.3f}")
    print(", ".join(f"{tap:.9g}f" for tap in best))


if __name__ == "__main__":
    main()
