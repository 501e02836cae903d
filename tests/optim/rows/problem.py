"""Row updates with random derivatives, and plain Python versions of the row rules."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from dlrm_adahessian.kernels.row_sums import Hits

ROWS, WIDTH, SAMPLES, STEPS = 9, 4, 16, 20


def hits_of(rows, grad, curvature=None, has_curvature=None):
    """Return hits with one lookup per row."""
    counts = None if curvature is None else torch.ones_like(rows)
    if has_curvature is not None:
        counts = has_curvature.long()
    return Hits(
        rows=rows,
        grad=grad,
        count=torch.ones_like(rows),
        curvature=curvature,
        squares=None if curvature is None else torch.ones_like(rows),
        curvature_squares=counts,
    )


def all_hits(dtype=torch.float64):
    """Return 20 steps. Every third one, from the first on, has no curvature; others lack the curvature of some rows."""
    rng = np.random.default_rng(3)
    for step in range(STEPS):
        rows = torch.from_numpy(np.sort(rng.choice(ROWS, rng.integers(1, ROWS), replace=False)))
        grad = torch.from_numpy(rng.normal(size=(len(rows), WIDTH))).to(dtype) / SAMPLES
        curvature = torch.from_numpy(rng.normal(size=(len(rows), WIDTH)) ** 2).to(dtype) / SAMPLES
        has = torch.from_numpy(rng.random(len(rows)) < 0.7)
        if step % 3 == 0:
            yield hits_of(rows, grad)
        else:
            yield hits_of(rows, grad, curvature, has)


def as_read(cfg, hits):
    """Return the hits that the rule receives. With one accumulator per row, curvature is its mean."""
    if cfg.pooled_curvature != "mean" or hits.curvature is None:
        return hits
    return replace(hits, curvature=hits.curvature.mean(1, keepdim=True))


def start(dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(4).normal(size=(ROWS, WIDTH))).to(dtype)


def adahessian(cfg, row, g, h, w):
    g, row.touches = g * SAMPLES, row.touches + 1
    row.m = cfg.beta1 * row.m + (1 - cfg.beta1) * g
    m_hat = row.m / (1 - cfg.beta1**row.touches)
    if h is not None:
        h, square = abs(h * SAMPLES), g**2
        if cfg.rowwise:
            h, square = np.full(WIDTH, h.mean()), np.full(WIDTH, square.mean())
        h = np.maximum(h, cfg.curvature_floor * square)
        row.s = cfg.beta2 * row.s + (1 - cfg.beta2) * h**2
        row.updates += 1
    if not row.updates:
        return m_hat
    root = np.sqrt(row.s / (1 - cfg.beta2**row.updates))
    return m_hat / (root**cfg.power + cfg.eps)


def adagrads(cfg, row, g, h, w):
    add = g**2
    if cfg.name == "rowwise_adagrad" or getattr(cfg, "rowwise", False):
        add = np.full(WIDTH, add.mean())
        h = h if h is None else np.full(WIDTH, h.mean())
    if cfg.name == "hessian_adagrad" and h is not None:
        add = np.maximum(abs(h) / SAMPLES, cfg.curvature_floor * add)
    row.s = row.s + add
    return g / (np.sqrt(row.s) + cfg.eps)


def adam(cfg, row, g, h, w):
    row.touches += 1
    row.m = cfg.beta1 * row.m + (1 - cfg.beta1) * g
    row.s = cfg.beta2 * row.s + (1 - cfg.beta2) * g**2
    m_hat, s_hat = row.m / (1 - cfg.beta1**row.touches), row.s / (1 - cfg.beta2**row.touches)
    return m_hat / (np.sqrt(s_hat) + cfg.eps) + cfg.weight_decay * w


def cowclip(cfg, row, g, h, w):
    most = max(cfg.ratio * np.linalg.norm(w), cfg.least)  # one lookup per row here
    return adam(cfg, row, g * min(1.0, most / np.linalg.norm(g)), h, w)


def sgd(cfg, row, g, h, w):
    return g


def sophia(cfg, row, g, h, w):
    row.m = cfg.beta1 * row.m + (1 - cfg.beta1) * g * SAMPLES
    if h is not None:
        row.s = cfg.beta2 * row.s + (1 - cfg.beta2) * h * SAMPLES
    return np.clip(row.m / np.maximum(cfg.gamma * row.s, cfg.eps), -1, 1)


DIRECTIONS = {
    "adagrad": adagrads,
    "adahessian": adahessian,
    "adam": adam,
    "cowclip": cowclip,
    "hessian_adagrad": adagrads,
    "rowwise_adagrad": adagrads,
    "sgd": sgd,
    "sophia": sophia,
}


def reference(cfg, w):
    """The row rules, row by row in Python."""
    at_first = np.full(WIDTH, getattr(cfg, "initial_accumulator", 0.0))
    rows = [SimpleNamespace(s=at_first, m=np.zeros(WIDTH), touches=0, updates=0) for _ in range(ROWS)]
    for hits in all_hits():
        for i, r in enumerate(hits.rows.tolist()):
            h = hits.curvature[i].numpy() if hits.curvature is not None and hits.has_curvature[i] else None
            step = DIRECTIONS[cfg.name](cfg, rows[r], hits.grad[i].numpy(), h, w[r])
            clip = getattr(cfg, "clip", None)
            w[r] -= cfg.lr * 0.5 * (np.clip(step, -clip, clip) if clip else step)
    return w


def run(cfg, update, dtype=torch.float64):
    rule, w = cfg.build(), start(dtype)
    state = rule.new_state(w)
    for hits in all_hits(dtype):
        getattr(rule, update)(w, state, as_read(cfg, hits), lr_scale=0.5, samples=SAMPLES)
    return w, state
