"""Samplers that no peer package has, from their papers' formulas in float64 NumPy.

Each takes (network, x, sigmas, noise) and returns the latent after every step. λ is
-ln(sigma), D the network's clean latent, as in the papers.
"""

import math

import numpy as np


def exponential(f, h: float):
    """∫₀ʰ e^(s - h)·f(s) ds, by 4000 midpoints: what an exponential integrator does."""
    s = (np.arange(4000) + 0.5) * h / 4000
    return float(np.sum(np.exp(s - h) * f(s)) * h / 4000)


def split(sigma, target, eta):
    """Song et al. 2020, eq. 16, for sigma² = (1 - α)/α."""
    a, b = 1 / (1 + sigma**2), 1 / (1 + target**2)
    if target == 0:
        return 0.0, 0.0
    added = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b) / b)
    return math.sqrt(target**2 - added**2), added


def flow_split(sigma, target, eta):
    """Down, factor and noise so that signal and noise are those of `target`."""
    down = (1 - eta) * target + eta * target**2 / sigma
    factor = (1 - target) / (1 - down)
    return down, factor, math.sqrt(max(target**2 - (factor * down) ** 2, 0))


def res_multistep(network, x, sigmas, noise, eta=0.0):
    """x0 on a line through the last two D, over the λ that the last step went down."""
    out, old, gone = [], None, None
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        D, (down, up) = network(x, sigma), split(sigma, target, eta)
        if down == 0:
            x = D
        else:
            h, slope = math.log(sigma / down), 0 * D
            if old is not None:
                slope = (D - old) / gone
            x = math.exp(-h) * x + exponential(np.ones_like, h) * D
            x = x + exponential(lambda s: s, h) * slope
            old, gone = D, h
        x = x + up * noise() if up else x
        out.append(x)
    return out


def res_2s(network, x, sigmas, noise, eta=0.0):
    """Zhang et al. 2023: D on a line through both stages, integrated exactly."""
    out = []
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        D, (down, up) = network(x, sigma), split(sigma, target, eta)
        if down == 0:
            x = D
        else:
            h = math.log(sigma / down)
            half = math.exp(-h / 2) * x + exponential(np.ones_like, h / 2) * D
            slope = (network(half, sigma * math.exp(-h / 2)) - D) / (h / 2)
            x = math.exp(-h) * x + exponential(np.ones_like, h) * D
            x = x + exponential(lambda s: s, h) * slope
        x = x + up * noise() if up else x
        out.append(x)
    return out


def er_sde(network, x, sigmas, noise, eta=1.0, flow=False):
    """Cui et al. 2023, alg. 3; its integrals by 200 000 midpoints."""

    def phi(level):
        return level * (np.exp(level**0.3) + 10) ** eta

    levels = [min(s, 0.9999) / (1 - min(s, 0.9999)) if flow else s for s in sigmas]
    out, seen, firsts = [], [], []
    for i, target in enumerate(sigmas[1:]):
        seen.append(network(x, sigmas[i]))
        now, then = levels[i], levels[i + 1]
        if target == 0:
            x = seen[-1]
        else:
            alpha = 1 - target if flow else 1.0
            before = sigmas[i] / now
            ratio = phi(then) / phi(now)
            x = alpha / before * ratio * x + alpha * (1 - ratio) * seen[-1]
            width = (now - then) / 200_000
            at = then + (np.arange(200_000) + 0.5) * width
            if i > 0:
                firsts.append((seen[-1] - seen[-2]) / (now - levels[i - 1]))
                factor = then - now + phi(then) * np.sum(width / phi(at))
                x = x + alpha * factor * firsts[-1]
            if i > 1:
                second = (firsts[-1] - firsts[-2]) / ((now - levels[i - 2]) / 2)
                weighted = phi(then) * np.sum(width * (at - now) / phi(at))
                x = x + alpha * ((then - now) ** 2 / 2 + weighted) * second
            if eta:
                x = x + alpha * math.sqrt(then**2 - now**2 * ratio**2) * noise()
        out.append(x)
    return out


def euler_ge(network, x, sigmas, noise, eta=0.0, gamma=2.0):
    """Permenter and Yuan 2023, alg. 1: eps̄ = γ·eps + (1 - γ)·eps before."""
    out, old = [], None
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        D, (down, up) = network(x, sigma), split(sigma, target, eta)
        eps = (x - D) / sigma
        mean = eps if old is None else gamma * eps + (1 - gamma) * old
        x, old = (D if target == 0 else x + (down - sigma) * mean), eps
        x = x + up * noise() if up else x
        out.append(x)
    return out


def cfg_pp(guided, x, sigmas, noise, eta=0.0):
    """Chung et al. 2024, alg. 2, in their terms: latents times √α, and DDIM's noise."""
    out = []
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        a = 1 / (1 + sigma**2)
        D, D_uncond = guided(x, sigma)
        down, up = split(sigma, target, eta)
        b = 1 / (1 + down**2)
        eps = (math.sqrt(a) * x - math.sqrt(a) * D_uncond) / math.sqrt(1 - a)
        x = (math.sqrt(b) * D + math.sqrt(1 - b) * eps) / math.sqrt(b)
        x = x + up * noise() if up else x
        out.append(x)
    return out


def cfg_pp_flow(guided, x, sigmas, noise):
    """The same of a flow: the noise is what is left of x beside the unguided D."""
    out = []
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        D, D_uncond = guided(x, sigma)
        eps = (x - (1 - sigma) * D_uncond) / sigma
        x = (1 - target) * D + target * eps
        out.append(x)
    return out


ADAMS = {1: [1], 2: [1.5, -0.5], 3: [23 / 12, -16 / 12, 5 / 12]}
ADAMS[4] = [55 / 24, -59 / 24, 37 / 24, -9 / 24]


def adams(network, x, sigmas, noise, variable_order=4, shift=0):
    """Adams and Bashforth: the polynomial through the last slopes, integrated.

    Beyond `variable_order` the weights are those of even steps.
    """
    out, slopes = [], []
    for i, sigma in enumerate(sigmas[:-1]):
        slopes = [(x - network(x, sigma)) / sigma, *slopes][:4]
        order, h = len(slopes), sigmas[i + 1] - sigma
        if order <= variable_order:
            past = np.array(sigmas[i + 1 - order : i + 1])[::-1]
            # Weights that integrate 1, s, s², … exactly.
            rows = np.vander(past - sigma, order, increasing=True).T
            weights = np.linalg.solve(rows, [h**k / k for k in range(1, order + 1)])
        else:
            weights = np.array(ADAMS[order]) * h
        chosen = [max(j - shift, 1) if j else 0 for j in range(order)]
        x = x + sum(w * slopes[j] for w, j in zip(weights, chosen, strict=True))
        out.append(x)
    return out


def dpmpp_2m_v2(network, x, sigmas, noise):
    """As stable-diffusion.cpp has it; there is no paper."""
    out, old, h_last = [], None, None
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        D = network(x, sigma)
        if target == 0:
            x = D
        elif old is None:
            h_last = math.log(sigma) - math.log(target)
            x = target / sigma * x - (math.exp(-h_last) - 1) * D
        else:
            h = math.log(sigma) - math.log(target)
            r = max(h, h_last) / min(h, h_last)
            mixed = (1 + 1 / (2 * r)) * D - 1 / (2 * r) * old
            x = target / sigma * x - (math.exp(-(h + h_last) / 2) - 1) * mixed
            h_last = h
        old = D
        out.append(x)
    return out


def euler_a_flow(network, x, sigmas, noise, eta=1.0):
    out = []
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        down, factor, up = flow_split(sigma, target, eta)
        velocity = (x - network(x, sigma)) / sigma  # noise - x0
        x = x + (down - sigma) * velocity
        x = factor * x + up * noise() if target else x
        out.append(x)
    return out


def dpmpp_2s_a_flow(network, x, sigmas, noise, eta=1.0):
    """DPM-Solver++(2S), λ = ln((1 - sigma)/sigma), α = 1 - sigma."""
    out = []
    for sigma, target in zip(sigmas, sigmas[1:], strict=False):
        D = network(x, sigma)
        down, factor, up = flow_split(sigma, target, eta)
        if target == 0:
            x = D
        else:
            start, end = (math.log((1 - s) / s) for s in (sigma, down))
            h = end - start
            middle = 1 / (1 + math.exp(start + h / 2))
            gain = (1 - middle) * (1 - math.exp(-h / 2))
            seen = network(middle / sigma * x + gain * D, middle)
            x = down / sigma * x + (1 - down) * (1 - math.exp(-h)) * seen
            x = factor * x + up * noise()
        out.append(x)
    return out
