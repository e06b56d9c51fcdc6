"""The Mamba family in float64 numpy, one token at a time.

Written from the equations of Mamba (arXiv 2312.00752, sections 3.2 to 3.4), Mamba-2 (2405.21060,
section 7), MoE-Mamba (2401.04081), BlackMamba (2402.01771) and the Falcon Mamba report (2410.05355);
shares no code with torch or transformers. Mixers and feed-forwards are objects that map one vector
to one vector and keep their own state; all sizes that a tensor's shape tells are read from it.
"""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.logaddexp(0, x)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def rms(x, eps):
    """x over its root mean square along the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def scope(weights, prefix):
    """The weights below a prefix, as float64 arrays without it."""
    return {name[len(prefix):]: np.asarray(w.double() if hasattr(w, "double") else w, np.float64)
            for name, w in weights.items() if name.startswith(prefix)}


class Stateless:
    def reset(self):
        pass


class Norm(Stateless):
    """LayerNorm where there is a bias, RMSNorm where there is none."""

    def __init__(self, w, eps=1e-5):
        self.weight, self.bias, self.eps = w["weight"], w.get("bias"), eps

    def __call__(self, x):
        if self.bias is None:
            return rms(x, self.eps) * self.weight
        return rms(x - x.mean(), self.eps) * self.weight + self.bias


class Linear(Stateless):
    def __init__(self, w, name):
        self.weight, self.bias = w[name + ".weight"], w.get(name + ".bias", 0.0)

    def __call__(self, x):
        return self.weight @ x + self.bias


class CausalConv:
    """Depthwise, the last tap on the newest input, followed by SiLU."""

    def __init__(self, w):
        self.weight, self.bias = w["conv1d.weight"][:, 0, :], w.get("conv1d.bias", 0.0)
        self.reset()

    def reset(self):
        self.state = np.zeros_like(self.weight)  # [channels, d_conv], newest input last

    def __call__(self, x):
        self.state[:, :-1] = self.state[:, 1:]
        self.state[:, -1] = x
        return silu((self.state * self.weight).sum(1) + self.bias)


class Mamba1:
    """h[d,n] <- exp(dt[d] A[d,n]) h[d,n] + dt[d] B[n] u[d];  y[d] = sum_n C[n] h[d,n] + D[d] u[d]

    Falcon Mamba divides the low-rank dt, B and C by their root mean square (`inner_eps`).
    """

    def __init__(self, w, inner_eps=None):
        self.in_proj, self.x_proj, self.dt_proj, self.out_proj = (
            Linear(w, name) for name in ("in_proj", "x_proj", "dt_proj", "out_proj"))
        self.conv = CausalConv(w)
        self.A, self.D = -np.exp(w["A_log"]), w["D"]
        self.inner = (lambda v: v) if inner_eps is None else (lambda v: rms(v, inner_eps))
        self.reset()

    def reset(self):
        self.conv.reset()
        self.state = np.zeros_like(self.A)  # [d_inner, d_state]

    def __call__(self, x):
        u, z = np.split(self.in_proj(x), 2)
        u = self.conv(u)
        n, rank = self.A.shape[1], self.dt_proj.weight.shape[1]
        low, B, C = map(self.inner, np.split(self.x_proj(u), [rank, rank + n]))
        dt = softplus(self.dt_proj(low))
        self.state = np.exp(dt[:, None] * self.A) * self.state + (dt * u)[:, None] * B
        return self.out_proj((self.state @ C + self.D * u) * silu(z))


class Mamba2:
    """Per head: S[p,n] <- exp(dt A) S[p,n] + dt B[n] x[p];  y[p] = sum_n C[n] S[p,n] + D[p] x[p]

    Consecutive heads share the B and C of a group. Rows of in_proj: two halves of a gated MLP
    where d_inner exceeds the heads' channels, then z, x, B, C, dt.
    """

    def __init__(self, w, d_state, headdim, n_groups, dt_limit=(0.0, math.inf),
                 norm_before_gate=False, flat_norm=False, eps=1e-5):
        self.in_proj, self.out_proj = Linear(w, "in_proj"), Linear(w, "out_proj")
        self.conv = CausalConv(w)
        self.A, self.dt_bias = -np.exp(w["A_log"]), w["dt_bias"]
        self.n_head, self.d_state, self.headdim, self.n_groups = (
            len(self.A), d_state, headdim, n_groups)
        self.d_ssm = self.n_head * headdim
        self.D = w["D"].reshape(self.n_head, -1)  # [n_head, 1 or headdim]
        self.norm_weight, self.eps = w.get("norm.weight"), eps
        self.norm_groups = 1 if flat_norm else n_groups
        self.norm_before_gate, self.dt_limit = norm_before_gate, dt_limit
        d_conv = self.d_ssm + 2 * n_groups * d_state
        d_mlp = (len(self.in_proj.weight) - self.d_ssm - d_conv - self.n_head) // 2
        self.splits = np.cumsum([d_mlp, d_mlp, self.d_ssm, d_conv])
        self.reset()

    def reset(self):
        self.conv.reset()
        self.state = np.zeros((self.n_head, self.headdim, self.d_state))
        self.n_clamped, self.n_dt = np.zeros(2, int), 0  # times that dt met the lower, upper limit

    def norm(self, y):
        return rms(y.reshape(self.norm_groups, -1), self.eps).ravel() * self.norm_weight

    def gated_norm(self, y, z):
        if self.norm_weight is None:
            return y * silu(z)
        return self.norm(y) * silu(z) if self.norm_before_gate else self.norm(y * silu(z))

    def __call__(self, u):
        gate, value, z, xBC, dt = np.split(self.in_proj(u), self.splits)
        x, B, C = np.split(self.conv(xBC), np.cumsum([self.d_ssm, self.n_groups * self.d_state]))
        x = x.reshape(self.n_head, self.headdim)
        B, C = (np.repeat(v.reshape(self.n_groups, -1), self.n_head // self.n_groups, axis=0)
                for v in (B, C))  # [n_head, d_state]
        free = softplus(dt + self.dt_bias)
        dt = np.clip(free, *self.dt_limit)
        self.n_dt += self.n_head
        self.n_clamped += [(free < dt).sum(), (free > dt).sum()]
        self.state = (np.exp(dt * self.A)[:, None, None] * self.state
                      + (dt[:, None] * x)[:, :, None] * B[:, None, :])
        y = np.einsum("hpn,hn->hp", self.state, C) + self.D * x
        return self.out_proj(np.concatenate([silu(gate) * value, self.gated_norm(y.ravel(), z)]))


def route(rule, logits, k=1, correction=0.0, scale=1.0):
    """The chosen experts, best first, and what their outputs are multiplied with."""
    if rule == "sigmoid_corrected":  # chosen with a correction, weighted without it
        p = sigmoid(logits)
        chosen = np.argsort(-(p + correction), kind="stable")[:k]
        return chosen, scale * p[chosen] / p[chosen].sum()
    chosen = np.argsort(-logits, kind="stable")[:k]
    if rule == "softmax":  # over all experts, kept as it is: Switch, MoE-Mamba, Jamba
        return chosen, softmax(logits)[chosen]
    if rule == "softmax_chosen":  # over the chosen ones only: Granite
        return chosen, softmax(logits[chosen])
    if rule == "sigmoid":  # BlackMamba
        return chosen, sigmoid(logits[chosen])
    raise ValueError(rule)


class FeedForward(Stateless):
    """up, activation, down; gated: the first half of up's rows, activated, times the second."""

    def __init__(self, up, down, activation, gated=False):
        self.up, self.down, self.activation, self.gated = up, down, activation, gated

    def __call__(self, x):
        h = self.up(x)
        if not self.gated:
            return self.down(self.activation(h))
        first, second = np.split(h, 2)
        return self.down(self.activation(first) * second)


class Experts:
    """A sum of the chosen experts' outputs; keeps what the tests want to know about the choices."""

    def __init__(self, router, experts, rule, k=1):
        self.router, self.experts, self.rule, self.k = router, experts, rule, k
        self.reset()

    def reset(self):
        self.chosen = set()
        self.margin = math.inf  # smallest distance of the last chosen logit to the next one

    def __call__(self, x):
        logits = self.router(x)
        chosen, weights = route(self.rule, logits, self.k)
        self.chosen.update(int(e) for e in chosen)
        if self.k < len(logits):
            ordered = np.sort(logits)[::-1]
            self.margin = min(self.margin, ordered[self.k - 1] - ordered[self.k])
        return sum(w * self.experts[e](x) for e, w in zip(chosen, weights))


class Model:
    """`blocks` is a list of lists of (norm, mixer): those of one list read the same residual."""

    def __init__(self, embedding, blocks, final_norm, head=None, head_bias=0.0):
        self.embedding, self.blocks, self.final_norm = embedding, blocks, final_norm
        self.head, self.head_bias = embedding if head is None else head, head_bias

    def mixers(self, kind):
        return [m for block in self.blocks for _, m in block if isinstance(m, kind)]

    def reset(self):
        for m in self.mixers(object):
            m.reset()

    def step(self, token):
        x = self.embedding[token]
        for block in self.blocks:
            x = x + sum(mixer(norm(x)) for norm, mixer in block)
        return self.head @ self.final_norm(x) + self.head_bias

    def run(self, tokens):
        self.reset()
        return np.stack([self.step(t) for t in tokens])

    def greedy(self, tokens, count, vocab):
        """The ids below `vocab` that follow, and the smallest distance of the best two logits."""
        logits = self.run(tokens)[-1][:vocab]
        out, min_gap = [], math.inf
        for _ in range(count):
            low, high = np.partition(logits, -2)[-2:]
            min_gap = min(min_gap, high - low)
            out.append(int(logits.argmax()))
            logits = self.step(out[-1])[:vocab]
        return out, min_gap


def backbone(weights, mixer, feed_forward=None):
    """A Model from state-spaces names; `mixer` and `feed_forward` take a layer's weights.

    With a feed-forward each layer is a pair of residual steps: norm and mixer, norm2 and moe.
    """
    blocks = []
    n_layer = 1 + max(int(name.split(".")[2]) for name in weights if ".layers." in name)
    for i in range(n_layer):
        w = lambda part: scope(weights, f"backbone.layers.{i}.{part}.")
        blocks.append([(Norm(w("norm")), mixer(w("mixer")))])
        if feed_forward:
            blocks.append([(Norm(w("norm2")), feed_forward(w("moe")))])
    top = scope(weights, "")
    return Model(top["backbone.embedding.weight"], blocks, Norm(scope(weights, "backbone.norm_f.")),
                 top.get("lm_head.weight"))
